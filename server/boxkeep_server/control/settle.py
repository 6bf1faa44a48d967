"""Brings every command to its one outcome: by its guest while the sandbox lives, by the sandbox's end otherwise."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace

from boxkeep_server.control.inside import Process, read_count, read_process
from boxkeep_server.control.launches import ending_of, ending_with, may_be_oom
from boxkeep_server.control.liveness import SandboxGone
from boxkeep_server.control.record import Recorder
from boxkeep_server.control.visits import Visit, Visits
from boxkeep_server.model.commands import Command, Outcome
from boxkeep_server.model.errors import BoxkeepError, Conflict, NotFound, NotReady, SandboxFault, Unavailable
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.model.statuses import OVER, Status
from boxkeep_server.store.commands import CommandRows, Ending

EVERY_S = 5.0
WAIT_SLICE_MS = 20_000
BACKOFF_S = (0.1, 0.5, 1.0, 2.0, 5.0)
TAILS_WITHIN_S = 3.0
TAILS_EVERY_S = 0.05
YOUNG_MS = 10_000


class PausedMeanwhile(Conflict):
    """The sandbox was paused while somebody waited for a command, which goes on when the sandbox does."""

    def __init__(self, command: Command) -> None:
        super().__init__(
            "Sandbox was paused while the command ran; it goes on when the sandbox is resumed",
            code="SANDBOX_PAUSED",
            processId=command.id,
        )


class Settler:
    """Follows the open commands of each sandbox, and reads the store for those that nobody follows.

    `oom_kills` asks the node how many processes of a sandbox's machine the kernel has killed for memory.
    """

    def __init__(
        self,
        *,
        visits: Visits,
        rows: CommandRows,
        recorder: Recorder,
        oom_kills: Callable[[Sandbox], Awaitable[int]],
        now_ms: Callable[[], int],
        tails_within_s: float = TAILS_WITHIN_S,
    ) -> None:
        self._tails_within_s = tails_within_s
        self._visits = visits
        self._rows = rows
        self._recorder = recorder
        self._oom_kills = oom_kills
        self._now_ms = now_ms
        self._held: set[str] = set()
        self._busy: Counter[str] = Counter()
        self._open: dict[str, dict[str, Command]] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._seen: dict[str, tuple[int, int]] = {}
        self._known_kills: dict[tuple[str, int], int] = {}
        self._wake = asyncio.Event()

    def attends(self, sandbox_id: str) -> bool:
        """Whether a command of the sandbox is known to be under way."""
        return self._busy[sandbox_id] > 0 or bool(self._open.get(sandbox_id))

    @contextmanager
    def held(self, command: Command) -> Iterator[None]:
        """Within it the caller settles the command itself; if it leaves it open, the settler takes it over later."""
        self._held.add(command.id)
        self._busy[command.sandbox] += 1
        try:
            yield
        finally:
            self._held.discard(command.id)
            self._busy[command.sandbox] -= 1
            if not self._busy[command.sandbox]:
                del self._busy[command.sandbox]

    def attend(self, command: Command) -> None:
        """Follow a command to its end in the background."""
        self._open.setdefault(command.sandbox, {})[command.id] = command
        self._wake.set()

    async def never_began(self, command: Command, why: str) -> None:
        """A guest refused to start a command: it leaves no record, or, once that is written, a cancelled one."""
        self._drop(command)
        if not self._recorder.withdraw(command.id):
            await self._recorder.close(
                Ending(command.id, self._now_ms(), Outcome.CANCELLED, reason=f"It did not begin: {why}"[:500])
            )

    async def settle(self, command: Command, process: Process) -> Command:
        """Write how a command ended that its guest calls finished, unless it is written already; the row as it is.

        Raises:
            SandboxFault: the guest does not say how it ended.
            Unavailable: the store did not take it.
        """
        killed = may_be_oom(process) and await self._killed(command)
        ending = ending_of(command, process, killed, self._now_ms())
        return await self._close(command, ending)

    async def settle_gone(self, command: Command) -> Command:
        """How a command ended whose sandbox ended under it: as the sandbox's release writes it, with the last of its
        output, or without that where it is slow; or as a pause that keeps files alone writes it.

        Raises:
            PausedMeanwhile: the command goes on with its sandbox.
            Unavailable: the store did not take it.
        """
        await self._recorder.written(command.id)
        clock = asyncio.get_running_loop().time
        until = clock() + self._tails_within_s
        while True:
            sandbox = await self._visits.state(command.sandbox)
            row = await self._rows.get(command.id)
            if row is not None and row.outcome is not None:
                self._drop(command)
                return row
            over = sandbox is None or sandbox.status is Status.ENDING or sandbox.status in OVER
            if over and clock() >= until:
                return await self._close(command, ending_with(command, sandbox, self._now_ms()))
            if sandbox is not None and not over and sandbox.status is not Status.PAUSING and sandbox.origin is None:
                raise PausedMeanwhile(command)
            await asyncio.sleep(TAILS_EVERY_S)

    async def until_finished(self, visit: Visit, command: Command, within_ms: int | None = None) -> Process:
        """Wait in the guest until a command has finished, or as it is when the time is up.

        Raises:
            NotFound: the guest does not know it.
            SandboxGone, SandboxFault, Unavailable: as they come.
        """
        clock = asyncio.get_running_loop().time
        until = None if within_ms is None else clock() + within_ms / 1000
        while True:
            left_ms = WAIT_SLICE_MS if until is None else max(0, min(WAIT_SLICE_MS, round((until - clock()) * 1000)))
            wait = {"op": "process.wait", "id": command.id, "timeoutMs": left_ms}
            try:
                answer = await visit.call(wait, timeout_s=left_ms / 1000 + 10)
            except Unavailable:  # a checkpoint cuts off who waits; whoever is away for good is so at the second try
                answer = await visit.call(wait, timeout_s=left_ms / 1000 + 10)
            process = read_process(answer)
            if process.finished or (until is not None and clock() >= until):
                return process

    async def settle_unknown(self, visit: Visit, command: Command) -> Command:
        """A command that its guest does not know, with its outcome if that is certain by now."""
        await self._unknown(visit, command)
        return await self._rows.get(command.id) or command

    async def run(self) -> None:
        """Settle for ever."""
        clock = asyncio.get_running_loop().time
        adopt_at = clock()
        async with asyncio.TaskGroup() as tasks:
            while True:
                if clock() >= adopt_at:
                    await self.adopt()
                    adopt_at = clock() + EVERY_S
                self._wake.clear()
                await self.run_once(tasks)
                try:
                    async with asyncio.timeout_at(adopt_at):
                        await self._wake.wait()
                except TimeoutError:
                    continue

    async def run_once(self, tasks: asyncio.TaskGroup) -> int:
        """See that each sandbox with open commands has its watcher; how many have one."""
        for sandbox_id, commands in list(self._open.items()):
            if commands and sandbox_id not in self._watchers:
                self._watchers[sandbox_id] = tasks.create_task(self._watch(sandbox_id))
        return len(self._watchers)

    async def adopt(self) -> int:
        """Attend to commands that are open in the store and followed by nobody here; how many."""
        try:
            found = await self._rows.open()
        except Unavailable:
            return 0
        new = [row for row in found if row.id not in self._held and row.id not in self._open.get(row.sandbox, {})]
        for row in new:
            self.attend(row)
        return len(new)

    async def _watch(self, sandbox_id: str) -> None:
        """Follow the open commands of one sandbox until there are none."""
        failures = 0
        try:
            while self._open.get(sandbox_id):
                try:
                    await self._follow(sandbox_id)
                    failures = 0
                except (NotReady, NotFound):
                    await self._when_not_ready(sandbox_id)
                except BoxkeepError:
                    await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
                    failures += 1
        finally:
            self._open.pop(sandbox_id, None)
            self._watchers.pop(sandbox_id, None)

    async def _follow(self, sandbox_id: str) -> None:
        visit = await self._visits.of(sandbox_id)
        epoch, after = self._seen.get(sandbox_id, (0, 0))
        request = {"op": "watch", "after": after if epoch == visit.sandbox.epoch else 0}
        async with aclosing(await visit.download(request)) as download:
            await self._look(visit)
            async for frame in download.frames():
                if not self._open.get(sandbox_id):
                    return
                await self._heard(visit, frame.message)

    async def _heard(self, visit: Visit, message: object) -> None:
        if not isinstance(message, dict):
            raise SandboxFault
        if "seq" not in message:
            await self._look(visit)
            return
        self._seen[visit.sandbox.id] = (visit.sandbox.epoch, read_count(message["seq"]))
        if message.get("event") == "process.finished":
            process = read_process(message)
            command = self._open.get(visit.sandbox.id, {}).get(process.id)
            if command is not None and process.finished:
                await self.settle(command, process)

    async def _look(self, visit: Visit) -> None:
        """Ask the guest for each open command: what was heard of none of them is not lost."""
        for command in list(self._open.get(visit.sandbox.id, {}).values()):
            try:
                process = read_process(await visit.call({"op": "process.get", "id": command.id}))
            except SandboxGone:
                raise
            except NotFound:
                await self._unknown(visit, command)
                continue
            if process.id != command.id:
                raise SandboxFault
            if process.finished:
                await self.settle(command, process)

    async def _unknown(self, visit: Visit, command: Command) -> None:
        """A guest does not know a command: it is on its way, it never arrived, or it went with an earlier machine."""
        if command.epoch != visit.sandbox.epoch and visit.sandbox.pause_keeps == "files":
            ending = Ending(command.id, self._now_ms(), Outcome.LOST_ON_FILES_PAUSE, reason="Its machine is gone")
        elif 0 <= self._now_ms() - command.started_at < YOUNG_MS:
            return
        else:
            ending = Ending(command.id, self._now_ms(), Outcome.CANCELLED, reason="It did not begin")
        await self._close(command, ending)

    async def _when_not_ready(self, sandbox_id: str) -> None:
        sandbox = await self._visits.state(sandbox_id)
        if sandbox is not None and sandbox.status not in OVER:
            await asyncio.sleep(0.1 if sandbox.status is Status.ENDING else 1.0)
            return
        # The first waits for the release, which settles all of them together with their last output.
        for command in list(self._open.get(sandbox_id, {}).values())[:1]:
            await self.settle_gone(command)
        for command in list(self._open.get(sandbox_id, {}).values()):
            await self._close(command, ending_with(command, sandbox, self._now_ms()))
        self._seen.pop(sandbox_id, None)
        for key in [key for key in self._known_kills if key[0] == sandbox_id]:
            del self._known_kills[key]

    async def _close(self, command: Command, ending: Ending) -> Command:
        row = await self._recorder.close(ending)
        self._drop(command)
        return row or replace(command, **{name: getattr(ending, name) for name in Ending.__slots__ if name != "id"})

    def _drop(self, command: Command) -> None:
        commands = self._open.get(command.sandbox)
        if commands is not None:
            commands.pop(command.id, None)

    async def _killed(self, command: Command) -> bool:
        """Whether the kernel has killed for memory in this machine since the last look."""
        sandbox = await self._visits.state(command.sandbox)
        if sandbox is None or sandbox.epoch != command.epoch:
            return False
        try:
            kills = await self._oom_kills(sandbox)
        except BoxkeepError:
            return False
        known = self._known_kills.get((command.sandbox, command.epoch), 0)
        if kills:
            self._known_kills[command.sandbox, command.epoch] = kills
        return kills > known
