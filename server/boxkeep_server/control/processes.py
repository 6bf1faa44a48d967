"""What may be done to a command under way: list it, read it, feed it, signal it, wait for it."""

from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

from boxkeep_server.control.inside import Process, read_as, read_count
from boxkeep_server.control.keys import Caller
from boxkeep_server.control.launches import Stream
from boxkeep_server.control.liveness import SandboxGone
from boxkeep_server.control.settle import Settler
from boxkeep_server.control.visits import Visit, Visits
from boxkeep_server.model.commands import Command
from boxkeep_server.model.errors import BoxkeepError, Conflict, NotFound, NotReady, SandboxFault
from boxkeep_server.model.ids import is_id
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.store.commands import CommandPage, CommandRows

SIGKILL = 9
LISTED_BY_GUEST = 1000


class ProcessNotFound(NotFound):
    """No such command in this sandbox."""

    def __init__(self) -> None:
        super().__init__("Process not found")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a command wrote, from `offset` on; `dropped` is a range that is gone because there was too much."""

    command: Command
    offset: int
    dropped: tuple[int, int] | None
    chunks: AsyncGenerator[bytes, None]


class Processes:
    """The use cases of commands that are under way or over. All raise `SandboxNotFound` and `ProcessNotFound`."""

    def __init__(self, *, visits: Visits, rows: CommandRows, settler: Settler, now_ms: Callable[[], int]) -> None:
        self._visits = visits
        self._rows = rows
        self._settler = settler
        self._now_ms = now_ms

    async def page(self, caller: Caller, sandbox_id: str, cursor: str | None, limit: int) -> CommandPage:
        """A page of a sandbox's commands; of those that still run, the guest says how much they have written."""
        sandbox = await self._visits.owned(caller, sandbox_id)
        page = await self._rows.page(sandbox_id, cursor, limit)
        running = await self._running(sandbox) if any(row.outcome is None for row in page.items) else {}
        return CommandPage([_with_counts(row, running.get(row.id)) for row in page.items], page.next_cursor)

    async def _running(self, sandbox: Sandbox) -> dict[str, Process]:
        """What the guest says of running processes; nothing where it cannot be asked, for the store is the truth."""
        try:
            visit = await self._visits.of(sandbox.id)
            answer = await visit.call({"op": "process.list", "state": "running", "limit": LISTED_BY_GUEST})
        except BoxkeepError:
            return {}
        found = answer.get("processes")
        if not isinstance(found, list):
            return {}
        processes = [read_as(Process, item) for item in found[:LISTED_BY_GUEST]]
        return {process.id: process for process in processes}

    async def read(
        self,
        caller: Caller,
        sandbox_id: str,
        process_id: str,
        stream: Stream,
        *,
        offset: int,
        length: int | None,
        follow: bool,
    ) -> Reading:
        """What a command wrote to a stream from `offset` on; with `follow` until it has finished.

        Of a command whose sandbox is over there is at most the last 64 KiB.
        """
        command = await self._command(caller, sandbox_id, process_id)
        try:
            visit = await self._visits.of(sandbox_id)
        except NotReady:
            return _kept(command, stream, offset, length)
        request = {
            "op": "process.output",
            "id": process_id,
            "stream": stream,
            "offset": offset,
            "length": length,
            "follow": follow,
        }
        download = await visit.download(request)
        try:
            begins = read_count(download.answer.get("offset"))
            dropped = _range(download.answer.get("dropped"))
        except SandboxFault:
            await download.aclose()
            raise

        async def chunks() -> AsyncGenerator[bytes, None]:
            async with aclosing(download):
                async for frame in download.frames():
                    yield frame.data

        return Reading(command, begins, dropped, chunks())

    async def write(
        self, caller: Caller, sandbox_id: str, process_id: str, chunks: AsyncIterable[bytes], *, close: bool
    ) -> int:
        """Give a command something to read; how many bytes it took.

        Raises:
            Conflict: it has finished, or takes no input.
        """
        command, visit = await self._under_way(caller, sandbox_id, process_id)
        answer = await visit.upload({"op": "process.stdin", "id": command.id, "close": close}, chunks)
        return read_count(answer.get("written"))

    async def signal(self, caller: Caller, sandbox_id: str, process_id: str, number: int, *, tree: bool) -> None:
        """Send a signal to a command's process group, or to all that descends from it. KILL records `cancelled`.

        Raises:
            Conflict: it has finished.
        """
        command, visit = await self._under_way(caller, sandbox_id, process_id)
        await visit.call(
            {"op": "process.signal", "id": command.id, "signal": number, "tree": tree, "cancel": number == SIGKILL}
        )

    async def wait(self, caller: Caller, sandbox_id: str, process_id: str, within_ms: int) -> Command:
        """A command when it has ended, or as it is when the time is up."""
        command = await self._command(caller, sandbox_id, process_id)
        if command.outcome is not None:
            return command
        try:
            visit = await self._visits.of(sandbox_id)
            process = await self._settler.until_finished(visit, command, within_ms)
        except NotFound:
            return await self._settler.settle_unknown(visit, command)
        except (SandboxGone, NotReady):
            return await self._settler.settle_gone(command)
        return await self._settler.settle(command, process) if process.finished else _with_counts(command, process)

    async def _under_way(self, caller: Caller, sandbox_id: str, process_id: str) -> tuple[Command, Visit]:
        command = await self._command(caller, sandbox_id, process_id)
        visit = await self._visits.begin(caller, sandbox_id)
        if command.outcome is not None:
            raise Conflict("The process has finished")
        return command, visit

    async def _command(self, caller: Caller, sandbox_id: str, process_id: str) -> Command:
        await self._visits.owned(caller, sandbox_id)
        row = await self._rows.get(process_id) if is_id(process_id) else None
        if row is None or row.sandbox != sandbox_id:
            raise ProcessNotFound
        return row


def _with_counts(command: Command, process: Process | None) -> Command:
    if process is None or command.outcome is not None:
        return command
    return replace(command, stdout_bytes=process.stdout_bytes, stderr_bytes=process.stderr_bytes)


def _range(value: object) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2:
        raise SandboxFault
    return read_count(value[0]), read_count(value[1])


def _kept(command: Command, stream: Stream, offset: int, length: int | None) -> Reading:
    """What the store kept of a command whose sandbox is gone."""
    tail = command.stdout_tail if stream == "stdout" else command.stderr_tail
    if tail is None:
        raise NotReady
    total = max(len(tail), (command.stdout_bytes if stream == "stdout" else command.stderr_bytes) or 0)
    begins = max(offset, total - len(tail))
    data = tail[begins - (total - len(tail)) :]

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield data if length is None else data[:length]

    return Reading(command, begins, None, chunks())
