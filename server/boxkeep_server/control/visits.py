"""The ways into a sandbox: calls to its guest, cut off when it ends, with the guest's faults in the model's words."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from boxkeep_server.control.keys import Caller
from boxkeep_server.control.liveness import Liveness
from boxkeep_server.control.ports import Ways
from boxkeep_server.guestwire import errors as wire
from boxkeep_server.guestwire import frames
from boxkeep_server.guestwire import streams as wire_streams
from boxkeep_server.guestwire.address import GuestAddress
from boxkeep_server.guestwire.pool import DEFAULT, GuestPool
from boxkeep_server.model.errors import (
    BoxkeepError,
    Conflict,
    Invalid,
    LimitReached,
    NoSpace,
    NotBuilt,
    NotFound,
    NotReady,
    SandboxFault,
    TimedOut,
    TooLarge,
    Unavailable,
)
from boxkeep_server.model.machines import MAIN
from boxkeep_server.model.sandboxes import Sandbox

LONGEST_MESSAGE = 500
GATE_S = 60.0
GATE_EVERY_S = 0.05
_REMEMBERED = 100_000

T = TypeVar("T")

REFUSALS: Mapping[str, Callable[[str], BoxkeepError]] = {
    "busy": lambda _: NotReady(),
    "unauthorised": lambda _: NotReady(),
    "not_found": NotFound,
    "exists": Conflict,
    "is_directory": Invalid,
    "not_directory": Invalid,
    "not_permitted": Conflict,
    "symlink": Invalid,
    "no_space": NoSpace,
    "too_large": TooLarge,
    "limit": LimitReached,
    "bad_cwd": Invalid,
    "bad_user": Invalid,
    "bad_request": Invalid,
    "not_running": Conflict,
    "unknown_op": lambda _: NotBuilt("This sandbox was begun by an earlier version, which cannot do that"),
}
"""What a guest's refusals are to a client. Every other code is an answer that we don't understand."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A piece of an answer that streams: bytes of a stream, or a message."""

    stream: Literal["stdout", "stderr"] | None
    data: bytes = b""
    message: dict[str, Any] | None = None


@contextmanager
def translated() -> Iterator[None]:
    """Within it the faults of the guest wire become those of the model."""
    try:
        yield
    except wire.GuestRefused as refusal:
        raise refused(refusal.code, refusal.message) from refusal
    except wire.GuestProtocolError as fault:
        raise SandboxFault from fault
    except wire.GuestTimeout as late:
        raise TimedOut("The sandbox did not answer in time") from late
    except wire.GuestUnreachable as away:
        raise Unavailable("The sandbox cannot be reached") from away


def refused(code: str, message: str) -> BoxkeepError:
    """A guest's refusal in the model's words. Its text goes to its own tenant alone, and not much of it."""
    make = REFUSALS.get(code)
    if make is None:
        return SandboxFault()
    return make(message[:LONGEST_MESSAGE] or code)


class Download:
    """An answer that streams. Close it when done; closing it early ends the call, not what it watches."""

    def __init__(self, visit: "Visit", stack: AsyncExitStack, stream: wire_streams.Download) -> None:
        self._visit = visit
        self._stack = stack
        self._stream = stream
        self.answer = stream.answer

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """What follows the answer, to its end.

        Raises:
            SandboxGone: the sandbox ended.
            SandboxFault, TimedOut, Unavailable: as the guest goes wrong.
        """
        frames = aiter(self._stream)
        while True:
            async with self._visit.guarded():
                frame = await anext(frames, None)
            if frame is None:
                return
            yield _read(frame)

    async def aclose(self) -> None:
        """Let the connection go."""
        await _close(self._stack)


class Duplex(Download):
    """A call in which both sides speak until one closes."""

    @property
    def quiet(self) -> bool:
        """Whether it goes on, and nothing has come that was not taken."""
        return self._duplex.quiet

    @property
    def ended(self) -> bool:
        """Whether the guest has said that it has no more, and did not just break off."""
        return self._duplex.ended

    def __init__(self, visit: "Visit", stack: AsyncExitStack, stream: wire_streams.Duplex) -> None:
        super().__init__(visit, stack, stream)  # type: ignore[arg-type]
        self._duplex = stream

    async def send(self, data: bytes) -> None:
        """Send bytes; waits while the guest is slow."""
        async with self._visit.guarded():
            await self._duplex.send_data(data)

    async def end(self) -> None:
        """Say that this side sends no more."""
        async with self._visit.guarded():
            await self._duplex.send_end()

    async def send_message(self, message: dict[str, object]) -> None:
        """Send a message."""
        async with self._visit.guarded():
            await self._duplex.send_json(message)


@dataclass(frozen=True, slots=True)
class Visit:
    """A way into one sandbox that is ready, in its present epoch."""

    sandbox: Sandbox
    address: GuestAddress
    pool: GuestPool
    liveness: Liveness

    @asynccontextmanager
    async def guarded(self) -> AsyncIterator[None]:
        """Within it the guest's faults are the model's, and the end of the sandbox ends the waiting.

        Raises:
            SandboxGone, SandboxFault, TimedOut, Unavailable, or what the guest refused.
        """
        async with self.liveness.while_ready(self.sandbox.id, self.sandbox.epoch):
            with translated():
                yield

    async def call(self, request: dict[str, Any], timeout_s: float = DEFAULT) -> dict[str, Any]:
        """A simple call, within `timeout_s`, by default what its operation may take. Raises as `guarded`."""
        return await self._patiently(lambda: self.pool.call(self.address, request, timeout=timeout_s))

    async def download(self, request: dict[str, Any]) -> Download:
        """A call whose answer streams; close it when done. Raises as `guarded`."""
        stack = AsyncExitStack()
        stream = await self._patiently(lambda: stack.enter_async_context(self.pool.download(self.address, request)))
        return Download(self, stack, stream)

    async def upload(self, request: dict[str, Any], chunks: AsyncIterable[bytes]) -> dict[str, Any]:
        """A call that sends bytes. Raises as `guarded`, and what `chunks` raises."""
        return await self._patiently(lambda: self.pool.upload(self.address, request, chunks))

    async def duplex(self, request: dict[str, Any]) -> Duplex:
        """A call in which both sides speak; close it when done. Raises as `guarded`."""
        stack = AsyncExitStack()
        stream = await self._patiently(lambda: stack.enter_async_context(self.pool.duplex(self.address, request)))
        return Duplex(self, stack, stream)

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What `ask` answers once the guest's gate is open, which a checkpoint closes for a moment. Nothing of a call
        that the gate refused has begun. Raises as `guarded`."""
        clock = asyncio.get_running_loop().time
        until = clock() + GATE_S
        while True:
            async with self.guarded():
                try:
                    return await ask()
                except wire.GuestRefused as refusal:
                    if refusal.code != "busy" or clock() >= until:
                        raise
                await asyncio.sleep(GATE_EVERY_S)


async def _close(stack: AsyncExitStack) -> None:
    """Leave a call early: that the guest objects to it no longer matters."""
    try:
        await stack.aclose()
    except wire.GuestError:
        return


def _read(frame: frames.Frame) -> Frame:
    match frame.kind:
        case frames.DATA:
            return Frame("stdout", frame.payload)
        case frames.ERR:
            return Frame("stderr", frame.payload)
        case frames.JSON:
            with translated():
                return Frame(None, message=frame.json())
        case _:
            raise SandboxFault


class Visits:
    """Opens ways into sandboxes. `awake` gives a sandbox as it is, or resumed where it does that by itself; it is told
    in whose name, the id of a key."""

    def __init__(
        self,
        ways: Ways,
        pool: GuestPool,
        liveness: Liveness,
        monotonic_ms: Callable[[], float],
        awake: Callable[[str, Sandbox], Awaitable[Sandbox]],
    ) -> None:
        self._towards: str = MAIN
        self._ways = ways
        self._pool = pool
        self._liveness = liveness
        self._monotonic_ms = monotonic_ms
        self._awake = awake
        self._used_at: OrderedDict[str, float] = OrderedDict()

    def towards(self, name: str) -> "Visits":
        """The same, into those machines in which what is called so runs; see `Sandbox.role_for`."""
        other = copy(self)
        other._towards = name
        return other

    async def begin(self, caller: Caller, sandbox_id: str) -> Visit:
        """A way into a caller's sandbox.

        Raises:
            SandboxNotFound, NotReady: there is none for this caller, or it takes no calls now.
        """
        return await self.enter(await self.owned(caller, sandbox_id), caller.key_id)

    async def enter(self, sandbox: Sandbox, actor: str) -> Visit:
        """A way into a sandbox for `actor`, who may go there. Raises as `begin`."""
        if not self._ways.enters(sandbox):
            sandbox = await self._awake(actor, sandbox)
        self.used(sandbox)
        return await self._into(sandbox)

    def used(self, sandbox: Sandbox) -> None:
        """Note that somebody has called a sandbox."""
        if sandbox.lifecycle.idle_pause_ms is not None:
            self._used_at[sandbox.id] = self._monotonic_ms()
            self._used_at.move_to_end(sandbox.id)
            if len(self._used_at) > _REMEMBERED:
                self._used_at.popitem(last=False)

    def used_at(self, sandbox_id: str) -> float | None:
        """When a caller last went into a sandbox that is paused when idle, monotonic ms; None where it is not known."""
        return self._used_at.get(sandbox_id)

    async def of(self, sandbox_id: str) -> Visit:
        """A way into a sandbox for our own purposes.

        Raises:
            NotReady: it takes no calls now, or is no more.
        """
        sandbox = await self.state(sandbox_id)
        if sandbox is None:
            raise NotReady
        return await self._into(sandbox)

    async def owned(self, caller: Caller, sandbox_id: str) -> Sandbox:
        """A caller's sandbox. Raises `SandboxNotFound`."""
        return await self._ways.sandbox(caller.organisation, sandbox_id)

    async def state(self, sandbox_id: str) -> Sandbox | None:
        """A sandbox as it is now, whoever it belongs to."""
        return await self._ways.state(sandbox_id)

    async def _into(self, sandbox: Sandbox) -> Visit:
        if not self._ways.enters(sandbox):
            raise NotReady
        return Visit(
            sandbox, await self._ways.address(sandbox, sandbox.role_for(self._towards)), self._pool, self._liveness
        )
