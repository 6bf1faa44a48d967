"""Terminals: a process with a PTY in a sandbox, that any number of clients may join, leave and join again."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from boxkeep_server.control.inside import read_process
from boxkeep_server.control.keys import Caller
from boxkeep_server.control.launches import Launch
from boxkeep_server.control.record import Recorder
from boxkeep_server.control.settle import Settler
from boxkeep_server.control.visits import Duplex, Visit, Visits
from boxkeep_server.model.errors import NotFound, SandboxFault, Unavailable
from boxkeep_server.model.events import EventType, Note
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.store.commands import CommandRows

SHELL = "command -v bash >/dev/null 2>&1 && exec bash -l; exec sh -l"
LEAVE_S = 5.0
ENVIRONMENT = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a terminal in characters."""

    rows: int = 24
    cols: int = 80


class TerminalEnded(NotFound):
    """The terminal's shell has ended; it cannot be joined again."""

    def __init__(self) -> None:
        super().__init__("The terminal has ended")


@dataclass(frozen=True, slots=True)
class Joined:
    """A client's connection to a terminal; that it joined and that it left is in the sandbox's record."""

    duplex: Duplex
    note_left: Callable[[], Awaitable[None]]

    async def leave(self) -> None:
        """Let the connection go and write that the client left, unless the store does not take it within a while."""
        try:
            await self.duplex.aclose()
        finally:
            with suppress(Unavailable, TimeoutError):
                async with asyncio.timeout(LEAVE_S):
                    await self.note_left()


class Terminals:
    """Opens and joins terminals. Each has a record like every command."""

    def __init__(
        self,
        *,
        visits: Visits,
        rows: CommandRows,
        recorder: Recorder,
        settler: Settler,
        now_ms: Callable[[], int],
    ) -> None:
        self._visits = visits
        self._rows = rows
        self._recorder = recorder
        self._settler = settler
        self._now_ms = now_ms

    async def join(self, caller: Caller, sandbox_id: str, terminal_id: str, size: Size | None) -> Joined:
        """The terminal of that id, joined, which is started if it is not there yet; leave it when done.

        Raises:
            SandboxNotFound, NotReady: the sandbox is not there or not ready.
            TerminalEnded: its shell has ended.
            SandboxFault, Unavailable, TimedOut, LimitReached: the inside answers wrongly, not at all, or is full.
        """
        visit = await self._visits.begin(caller, sandbox_id)
        known = await self._rows.get(terminal_id)
        if known is None:
            await self._start(caller, visit, terminal_id, size or Size())
        elif known.sandbox != sandbox_id or not known.pty or known.outcome is not None:
            raise TerminalEnded
        request: dict[str, Any] = {"op": "process.attach", "id": terminal_id}
        if size is not None:
            request |= {"rows": size.rows, "cols": size.cols}
        duplex = await visit.duplex(request)
        try:
            await self._note(caller, visit.sandbox, terminal_id, EventType.TERMINAL_JOINED)
        except BaseException:
            await duplex.aclose()
            raise
        return Joined(duplex, partial(self._note, caller, visit.sandbox, terminal_id, EventType.TERMINAL_LEFT))

    async def _note(self, caller: Caller, box: Sandbox, terminal_id: str, kind: EventType) -> None:
        done = {"processId": terminal_id}
        await self._recorder.note(Note(box.id, box.organisation, kind, self._now_ms(), caller.key_id, done))

    async def _start(self, caller: Caller, visit: Visit, terminal_id: str, size: Size) -> None:
        launch = Launch(
            kind="terminal",
            command="sh",
            args=("-c", SHELL),
            env=ENVIRONMENT,
            background=True,
            pty=(size.rows, size.cols),
            line="terminal",
        )
        command = launch.record(terminal_id, visit.sandbox, caller.key_id, self._now_ms())
        self._recorder.open(command)
        self._settler.attend(command)
        answer = await visit.call(launch.request(terminal_id, "started"))
        if read_process(answer).id != terminal_id:
            raise SandboxFault
        await self._recorder.written(terminal_id)
