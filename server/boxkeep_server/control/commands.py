"""Running things in a sandbox: each command has one record and ends in exactly one outcome."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

from boxkeep_server.control.feed import feed, feeding
from boxkeep_server.control.inside import Process, read_process
from boxkeep_server.control.keys import Caller
from boxkeep_server.control.launches import TAIL, Launch, Output, Result, Stream
from boxkeep_server.control.liveness import SandboxGone
from boxkeep_server.control.record import Recorder
from boxkeep_server.control.settle import Settler
from boxkeep_server.control.visits import Download, Visit, Visits
from boxkeep_server.model.commands import Command
from boxkeep_server.model.errors import BoxkeepError, SandboxFault, TimedOut, Unavailable

REJOINS = 3
REJOIN_S = 0.2

Begun = Command
Watched = Begun | Output | Result


class Commands:
    """Starts commands and follows them to their end. `new_id` draws ids, `now_ms` is the host's clock in epoch ms."""

    def __init__(
        self,
        *,
        visits: Visits,
        recorder: Recorder,
        settler: Settler,
        new_id: Callable[[], str],
        now_ms: Callable[[], int],
    ) -> None:
        self._visits = visits
        self._recorder = recorder
        self._settler = settler
        self._new_id = new_id
        self._now_ms = now_ms

    def active(self, sandbox_id: str) -> bool:
        """Whether a command or terminal lives in the sandbox, as far as this process knows."""
        return self._settler.attends(sandbox_id)

    async def run(
        self, caller: Caller, sandbox_id: str, launch: Launch, process_id: str | None = None, tail: int = TAIL
    ) -> Result:
        """Run something to its end, whatever becomes of the client; its record is durable before this returns.

        Raises:
            SandboxNotFound, NotReady: there is no such sandbox, or it takes no commands now.
            Invalid: `cwd` or `user` is not there.
            LimitReached: the sandbox has no room for another process.
            SandboxFault, Unavailable, TimedOut: the inside answers wrongly, or not at all.
        """
        visit = await self._visits.begin(caller, sandbox_id)
        command = self._record(caller, visit, launch, process_id)
        with self._settler.held(command):
            try:
                async with feeding(visit, command, launch):
                    process, stdout, stderr = await self._to_exit(visit, command, launch, tail)
                settled = await self._settler.settle(command, process)
            except SandboxGone:
                settled = await self._settler.settle_gone(command)
                return Result(settled, settled.stdout_tail or b"", settled.stderr_tail or b"")
        return Result(settled, stdout, stderr)

    async def _to_exit(self, visit: Visit, command: Command, launch: Launch, tail: int) -> tuple[Process, bytes, bytes]:
        try:
            async with self._beginning(command):
                return await _exit_of(visit, command, launch.request(command.id, "exit", tail), tail)
        except _Lost:
            await self._started(visit, command, launch)
            process = await self._settler.until_finished(visit, command)
            tails = [await _tail_of(visit, process, stream, tail) for stream in ("stdout", "stderr")]
            return process, tails[0], tails[1]

    async def launch(self, caller: Caller, sandbox_id: str, launch: Launch, process_id: str | None = None) -> Command:
        """Start something and leave it running: returns once its guest has it and its record is durable.

        Raises:
            The same as `run`.
        """
        visit = await self._visits.begin(caller, sandbox_id)
        command = self._record(caller, visit, launch, process_id)
        self._settler.attend(command)
        await self._started(visit, command, launch)
        await self._recorder.written(command.id)
        if launch.fed:
            await feed(visit, command, launch.stdin or b"")
        return command

    async def stream(
        self, caller: Caller, sandbox_id: str, launch: Launch, process_id: str | None = None
    ) -> AsyncGenerator[Watched, None]:
        """Run something and watch it: its record, once that is durable, its output as it comes, its end.

        What runs or ran already under `process_id` is watched from its beginning, and not run again.

        Closing the generator leaves the command running. Errors are those of `run`; they come before the first item.
        """
        visit = await self._visits.begin(caller, sandbox_id)
        command = self._record(caller, visit, launch, process_id)
        try:
            download = await self._begin_stream(visit, command, launch)
            async with aclosing(download):
                await self._recorder.written(command.id)
                self._settler.attend(command)
                yield command
                async with feeding(visit, command, launch):
                    async for item in self._watch(visit, command, download):
                        yield item
        except SandboxGone:
            yield Result(await self._settler.settle_gone(command), b"", b"")

    async def _begin_stream(self, visit: Visit, command: Command, launch: Launch) -> Download:
        try:
            async with self._beginning(command):
                download = await visit.download(launch.request(command.id, "stream"))
                _same(command, download.answer)
                return download
        except _Lost as lost:
            self._settler.attend(command)
            raise lost.cause from lost

    async def _watch(self, visit: Visit, command: Command, download: Download) -> AsyncGenerator[Output | Result, None]:
        """The output of a command from a stream, rejoined where it broke off, and its end."""
        seen: Counter[str] = Counter()
        for _ in range(REJOINS):
            try:
                async with aclosing(download):
                    async for frame in download.frames():
                        if frame.stream is None:
                            process = _same(command, frame.message)
                            yield Result(await self._settler.settle(command, process), b"", b"")
                            return
                        seen[frame.stream] += len(frame.data)
                        yield Output(frame.stream, frame.data)
            except Unavailable:
                await asyncio.sleep(REJOIN_S)
            download = await visit.download(_follow(command, seen))
        await download.aclose()
        raise Unavailable("The sandbox cannot be reached")

    async def _started(self, visit: Visit, command: Command, launch: Launch) -> None:
        """Have the guest start a command, unless it has: one id starts nothing twice."""
        try:
            async with self._beginning(command):
                _same(command, await visit.call(launch.request(command.id, "started")))
        except _Lost as lost:
            raise lost.cause from lost

    def _record(self, caller: Caller, visit: Visit, launch: Launch, process_id: str | None = None) -> Command:
        command = launch.record(process_id or self._new_id(), visit.sandbox, caller.key_id, self._now_ms())
        self._recorder.open(command)
        return command

    @asynccontextmanager
    async def _beginning(self, command: Command) -> AsyncIterator[None]:
        """Within it the guest is asked to start the command: a refusal takes the record back."""
        try:
            yield
        except (Unavailable, TimedOut) as lost:
            raise _Lost(lost) from lost
        except SandboxFault:
            self._settler.attend(command)
            raise
        except SandboxGone:
            raise
        except BoxkeepError as refusal:
            await self._settler.never_began(command, refusal.sentence)
            raise


class _Lost(Exception):
    """The way to the guest broke while a command was under way: it may run or not."""

    def __init__(self, cause: BoxkeepError) -> None:
        super().__init__(str(cause))
        self.cause = cause


async def _exit_of(
    visit: Visit, command: Command, request: dict[str, object], tail: int
) -> tuple[Process, bytes, bytes]:
    output = {"stdout": bytearray(), "stderr": bytearray()}
    download = await visit.download(request)
    async with aclosing(download):
        process = _same(command, download.answer)
        async for frame in download.frames():
            if frame.stream is None or len(output[frame.stream]) + len(frame.data) > tail:
                raise SandboxFault
            output[frame.stream] += frame.data
    if not process.finished:
        raise SandboxFault
    return process, bytes(output["stdout"]), bytes(output["stderr"])


async def _tail_of(visit: Visit, process: Process, stream: Stream, tail: int) -> bytes:
    produced = process.stdout_bytes if stream == "stdout" else process.stderr_bytes
    if produced == 0:
        return b""
    request = {
        "op": "process.output",
        "id": process.id,
        "stream": stream,
        "offset": max(0, produced - tail),
        "length": tail,
        "follow": False,
    }
    found = bytearray()
    async with aclosing(await visit.download(request)) as download:
        async for frame in download.frames():
            found += frame.data
            if len(found) > tail:
                raise SandboxFault
    return bytes(found)


def _same(command: Command, message: object) -> Process:
    """The process of an answer, which must be the one that was asked for."""
    process = read_process(message)
    if process.id != command.id:
        raise SandboxFault
    return process


def _follow(command: Command, seen: Counter[str]) -> dict[str, object]:
    return {
        "op": "process.follow",
        "id": command.id,
        "stdoutOffset": seen["stdout"],
        "stderrOffset": seen["stderr"],
    }
