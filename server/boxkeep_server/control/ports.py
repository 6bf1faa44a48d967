"""What commands, files and terminals ask of the rest of control: the seams at which they are joined and tested."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from boxkeep_server.guestwire.address import GuestAddress
from boxkeep_server.model.commands import Command
from boxkeep_server.model.plans import Plan
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.model.scopes import Scope


class Caller(Protocol):
    """Who asks: a live key of an organisation."""

    @property
    def organisation(self) -> str:
        """Its organisation's id."""

    @property
    def key_id(self) -> str:
        """The id of the key, never the key."""

    @property
    def scopes(self) -> frozenset[Scope]:
        """What the key may do; empty means everything."""

    @property
    def plan(self) -> Plan:
        """The organisation's plan."""


class Ways(Protocol):
    """How control finds sandboxes, and the guests of those that are ready."""

    async def sandbox(self, organisation: str, sandbox_id: str) -> Sandbox:
        """A sandbox of an organisation. Raises `SandboxNotFound`."""

    async def state(self, sandbox_id: str) -> Sandbox | None:
        """A sandbox, whoever it belongs to."""

    async def address(self, sandbox: Sandbox) -> GuestAddress:
        """Where the guest of a ready sandbox is. Raises `NotReady`."""


@dataclass(frozen=True, slots=True)
class CommandPage:
    """Commands, newest first, and where the next page begins."""

    items: Sequence[Command]
    next_cursor: str | None


class CommandRows(Protocol):
    """The records of commands. All raise `Unavailable` when the store is away."""

    async def get(self, command_id: str) -> Command | None:
        """One record."""

    async def page(self, sandbox_id: str, cursor: str | None, limit: int) -> CommandPage:
        """A page of a sandbox's records, newest first. Raises `Invalid` for a cursor that is none of ours."""

    async def open(self) -> Sequence[Command]:
        """All records without an ending."""
