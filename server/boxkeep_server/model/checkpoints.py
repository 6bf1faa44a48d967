"""Checkpoints: what the store keeps of one, and which sandboxes may have them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal

from boxkeep_server.model.errors import NotFound
from boxkeep_server.model.machines import Key
from boxkeep_server.model.node_api import Role
from boxkeep_server.model.sandboxes import Runtime, Sandbox

LAST: Final = "last"
"""The name of the checkpoint that a machine leaves which died."""

FORKS_MOST: Final = 100


class CheckpointState(StrEnum):
    """Where a checkpoint is: wanted and not there yet, durable and whole, or come to nothing."""

    TAKING = "taking"
    WHOLE = "whole"
    FAILED = "failed"


class Fault(StrEnum):
    """Why a checkpoint came to nothing."""

    NO_SPACE = "no_space"
    SANDBOX_GONE = "sandbox_gone"
    NOT_TAKEN = "not_taken"


class CheckpointNotFound(NotFound):
    """No such checkpoint for this organisation."""

    def __init__(self) -> None:
        super().__init__("Checkpoint not found")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What there is of a sandbox's `epoch` at one moment. Times are epoch ms.

    `memory` is what was asked for, `keeps` what there is; `lost` says why something that was asked for is not there.
    `bytes` is what it refers to, much of which it may share; `stood_ms` how long the sandbox stood still for it;
    `stored_at` when there were copies of all of it in the store of blobs.

    `sides` are the roles beside the main one that it has something of, each with the epoch of the machine; until it is
    whole, those that it is to be taken of. `keeps` is of the main machine; what there is not of others, `lost` says.
    """

    id: str
    organisation: str
    sandbox: str
    epoch: int
    name: str | None
    state: CheckpointState
    memory: bool
    keeps: Literal["memory", "files"] | None
    lost: str | None
    runtime: Runtime
    image: str
    isolation: Literal["runsc", "runc"]
    node: str
    bytes: int | None
    stood_ms: int | None
    created_at: int
    taken_at: int | None
    created_by: str
    fault: Fault | None
    stored_at: int | None
    sides: Mapping[Role, int] = field(default_factory=dict)

    @property
    def machines(self) -> tuple[Key, ...]:
        """The machines of which it is, or is to be taken, the main one first."""
        sides = (Key(self.sandbox, epoch, role) for role, epoch in self.sides.items())
        return Key(self.sandbox, self.epoch), *sides


def may_have(sandbox: Sandbox) -> bool:
    """Whether checkpoints may be taken of a sandbox: its creator has to have asked for that."""
    storage = (sandbox.capabilities or {}).get("storage")
    asked = isinstance(storage, Mapping) and storage.get("workspace") == "checkpointed"
    return asked or not sandbox.ephemeral
