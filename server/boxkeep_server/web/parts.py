"""What the API is made of: the parts that `compose` hands to it, and what it asks of each."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from boxkeep_server.control.commands import Commands
from boxkeep_server.control.files import Files
from boxkeep_server.control.idempotency import Stored
from boxkeep_server.control.ports import Caller
from boxkeep_server.control.processes import Processes
from boxkeep_server.control.terminals import Terminals
from boxkeep_server.model.events import Event
from boxkeep_server.model.rates import CallKind
from boxkeep_server.model.sandboxes import NewSandbox, Sandbox
from boxkeep_server.web.metrics import Metrics
from boxkeep_server.web.tokens import Tokens

__all__ = ["Caller", "Events", "Idempotency", "Keys", "Parts", "Rates", "SandboxPage", "Sandboxes", "Stored"]


class Keys(Protocol):
    """Who asks. Both raise `Unauthenticated`, and within a second of a revocation."""

    async def authenticate(self, key: str) -> Caller:
        """The caller of a key."""

    async def caller_of(self, key_id: str) -> Caller:
        """The caller of a live key by its id."""


class Rates(Protocol):
    """How often an organisation may call."""

    async def take(self, organisation: str, kind: CallKind) -> None:
        """Count one call. Raises `RateLimited`."""


class Idempotency(Protocol):
    """Answers kept by organisation, route and key for a day."""

    async def begin(self, organisation: str, route: str, key: str, fingerprint: str) -> Stored | None:
        """The answer that the same request got before; None when it is the first, which must `finish` or `abandon`.

        While the first is under way this waits. Raises `Conflict` when the key came with another request.
        """

    async def finish(self, organisation: str, route: str, key: str, stored: Stored) -> None:
        """Keep the answer of the first."""

    async def abandon(self, organisation: str, route: str, key: str) -> None:
        """Forget the first: it had no effect."""


class SandboxPage(Protocol):
    """Sandboxes, newest first, and where the next page begins."""

    @property
    def items(self) -> Sequence[Sandbox]:
        """The sandboxes."""

    @property
    def next_cursor(self) -> str | None:
        """Where the next page begins; None after the last."""


class Sandboxes(Protocol):
    """The use cases of sandboxes. All but create and list raise `SandboxNotFound`."""

    async def create(self, caller: Caller, wish: NewSandbox) -> Sandbox:
        """Accept a sandbox. Raises `LimitReached`, `Invalid` for an isolation that is not allowed."""

    async def get(self, caller: Caller, sandbox_id: str) -> Sandbox:
        """One sandbox."""

    async def list(
        self,
        caller: Caller,
        *,
        limit: int,
        cursor: str | None,
        status: str | None,
        metadata: Mapping[str, str],
    ) -> SandboxPage:
        """A page of them. Raises `Invalid` for a cursor that is none of ours."""

    async def end(self, caller: Caller, sandbox_id: str) -> Sandbox:
        """End one, in whatever state it is."""

    async def patch(self, caller: Caller, sandbox_id: str, changes: Mapping[str, object]) -> Sandbox:
        """Change `max_duration_ms`, `name`, `metadata`. Raises `Conflict` where the state forbids it."""

    async def wait(self, caller: Caller, sandbox_id: str, timeout_ms: int) -> Sandbox:
        """The sandbox once it is ready or will not be, or as it is when the time is up."""


class Events(Protocol):
    """The events of a sandbox."""

    async def after(self, sandbox_id: str, sequence: int, limit: int) -> Sequence[Event]:
        """Those after a sequence, in order."""

    async def changed(self, sandbox_id: str, within_s: float) -> None:
        """Return when there may be more, or when the time is up."""


async def _always() -> None:
    return


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything that answers. `public_url` has no slash at its end; `ready` raises `Unavailable` when it is not so."""

    keys: Keys
    rates: Rates
    idempotency: Idempotency
    sandboxes: Sandboxes
    events: Events
    commands: Commands
    processes: Processes
    files: Files
    terminals: Terminals
    tokens: Tokens
    public_url: str
    ready: Callable[[], Awaitable[None]] = _always
    metrics: Metrics = field(default_factory=Metrics)
