"""All processes of the machine: started once per id, found by id, listed in order, their logs kept within bounds."""

import asyncio
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from boxkeep_guest import records, spawn
from boxkeep_guest.accounts import Account, Accounts
from boxkeep_guest.errors import Refused, refusal
from boxkeep_guest.intake import Intake
from boxkeep_guest.output import KEPT_IN_MEMORY, SCROLLBACK, Output
from boxkeep_guest.process import Process
from boxkeep_guest.pump import Pump
from boxkeep_guest.records import Ending, Finished, Spec
from boxkeep_guest.ring import Budget, Layout
from boxkeep_guest.terminal import open_terminal
from boxkeep_guest.tree import Tree

RUNNING_MOST = 2000
KEPT_IN_MEMORY_MOST = 1000
LOGS_MOST = 5000
LOGS_LEAST = 100
DISK_LEAST = 256 * 1024 * 1024
_DISK_LOOK_SECONDS = 5.0
LINGERING_MOST = 1000
UNWRITTEN_SECONDS = 0.05


class Processes:
    """The registry. All methods belong to the event loop unless they say otherwise."""

    def __init__(
        self, log: str, spawner: spawn.Spawner, threads: Executor, finished: Callable[[Process], None]
    ) -> None:
        self.environment: dict[str, str] = {}
        self.image_environment: dict[str, str] = {}
        self.oom_killed: Callable[[], bool] = lambda: False
        self.spawner = spawner
        self._log = log
        self._threads = threads
        self._finished = finished
        self._all: dict[str, Process | Finished | None] = {}
        self._running: dict[str, Process] = {}
        self._by_pid: dict[int, Process] = {}
        self._in_memory: deque[str] = deque()
        self._lingering: deque[Process] = deque()
        self._disk_looked = 0.0
        self._accounts = Accounts()
        self._turn = asyncio.Lock()
        self._unwritten: dict[str, asyncio.TimerHandle] = {}

    def adopt(self) -> None:
        """Take up the logs that a former guest left, oldest first."""
        try:
            names = [name for name in os.listdir(self._log) if len(name) == 32]  # noqa: PTH208
        except FileNotFoundError:
            os.makedirs(self._log, 0o700, exist_ok=True)  # noqa: PTH103
            return
        found = [(name, records.read_record(f"{self._log}/{name}")) for name in names]
        old = sorted((one.record()["startedAt"], name) for name, one in found if one is not None)
        self._all = dict.fromkeys(name for _, name in old)

    @property
    def running(self) -> list[Process]:
        """Those that have not finished."""
        return list(self._running.values())

    @property
    def at_work(self) -> bool:
        """Whether anything runs that is the sandbox's work, and not there to accompany it."""
        return any(not process.spec.companion for process in self._running.values())

    def marked(self, mark: int) -> Process | None:
        """The running process with that mark, or None."""
        return next((one for one in self._running.values() if one.tree is not None and one.tree.mark == mark), None)

    async def start(self, spec: Spec) -> Process | Finished:
        """Start a process; the id of one that was started before answers with that one.

        Raises:
            Refused: `bad_user`, `bad_cwd`, `limit`.
        """
        async with self._turn:
            try:
                return self._start(spec)
            finally:
                await asyncio.sleep(0)  # a start blocks: between two of them everybody else is heard

    def _start(self, spec: Spec) -> Process | Finished:
        known = self.find(spec.id)
        if known is not None:
            return known
        if len(self._running) >= RUNNING_MOST:
            raise Refused("limit", f"{RUNNING_MOST} processes run already")
        account = self._accounts.find(spec.user)
        spawn.check_directory(spec.cwd)
        process = self._new(spec, account)
        try:
            self._launch(process, account)
        except spawn.NotStarted as error:
            self._remember(process)
            process.never_started(error.code, error.sentence)
            return process
        self._remember(process)
        return process

    def _new(self, spec: Spec, account: Account) -> Process:
        directory, budget = f"{self._log}/{spec.id}", Budget()
        kept = SCROLLBACK if spec.pty else KEPT_IN_MEMORY
        outputs = {name: Output(f"{directory}/{name}", Layout(budget), kept) for name in ("stdout", "stderr")}
        return Process(spec, account.name, outputs, self._threads, self._settled)

    def _launch(self, process: Process, account: Account) -> None:
        spec = process.spec
        given = {**self.environment, **spec.env}
        env = spawn.environment(account, spec.pty is not None, {**self.image_environment, **given})
        argv = spawn.argument_vector(spec.command, spec.args, given.get("PATH"))
        try:
            streams, close_after = self._open_streams(process, account)
        except OSError as error:
            self._abandon(process)
            raise refusal(error, "The process") from error
        try:
            process.pid, mark = self.spawner.spawn(argv, spec.cwd, env, account, streams)
        except BaseException:
            self._abandon(process)
            raise
        finally:
            for file in close_after:
                os.close(file)
        self._by_pid[process.pid] = self._running[spec.id] = process
        process.begun(process.pid, Tree(process.pid, mark, self.spawner.limit_name))
        if process.intake is not None and spec.stdin is not None:
            self._feed_first(process)

    @staticmethod
    def _feed_first(process: Process) -> None:
        assert process.spec.stdin is not None
        try:
            process.feed(process.spec.stdin, process.spec.keep_stdin or process.spec.pty is not None)
        except Refused:  # it closed its input before it was given any
            return

    def _open_streams(self, process: Process, account: Account) -> tuple[spawn.Streams, list[int]]:
        if process.spec.pty is not None:
            master, slave = open_terminal(process.spec.pty, account.uid)
            process.terminal = master
            process.pumps.append(Pump(master, process.outputs["stdout"], self._threads, process.output_changed))
            process.intake = Intake(os.dup(master))
            return spawn.Streams(slave, slave, slave, terminal=True), [slave]
        close_after: list[int] = []
        ends = []
        for name in ("stdout", "stderr"):
            reader, writer = os.pipe()
            close_after.append(writer)
            ends.append(writer)
            process.pumps.append(Pump(reader, process.outputs[name], self._threads, process.output_changed))
        if process.spec.stdin is None and not process.spec.keep_stdin:
            source = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        else:
            source, sink = os.pipe()
            process.intake = Intake(sink)
        close_after.append(source)
        return spawn.Streams(source, ends[0], ends[1], terminal=False), close_after

    @staticmethod
    def _abandon(process: Process) -> None:
        for pump in process.pumps:
            pump.close()
        process.pumps.clear()
        if process.intake is not None:
            process.intake.close()
        process.intake = None
        process.terminal = None

    def _remember(self, process: Process) -> None:
        """Know it from now on. Its record is written once it has run for a moment: most are over before."""
        self._all[process.spec.id] = process
        later = asyncio.get_running_loop().call_later(UNWRITTEN_SECONDS, self._write_first, process)
        self._unwritten[process.spec.id] = later

    def _write_first(self, process: Process) -> None:
        del self._unwritten[process.spec.id]
        text = records.record_text(process.record(), process.outputs)
        records.write_record(f"{self._log}/{process.spec.id}", text, first=True)

    def _settled(self, process: Process) -> None:
        """It has finished: write it down, tell, and keep memory and disk within bounds."""
        self._running.pop(process.spec.id, None)
        directory = f"{self._log}/{process.spec.id}"
        text = records.record_text(process.record(), process.outputs)
        unwritten = self._unwritten.pop(process.spec.id, None)
        if unwritten is not None:
            unwritten.cancel()
        written = records.write_record(directory, text, first=unwritten is not None)
        self._all[process.spec.id] = Finished(directory, text)
        self._in_memory.append(process.spec.id)
        self._finished(process)
        self._linger(process)
        if len(self._in_memory) > KEPT_IN_MEMORY_MOST:
            oldest = self._in_memory.popleft()
            if oldest in self._all:
                self._all[oldest] = None
        self._tidy(short=not written)

    def _linger(self, process: Process) -> None:
        """Descendants may still write: their output is thrown away, for a bounded number of such processes."""
        if all(pump.ended for pump in process.pumps):
            return
        self._lingering.append(process)
        while len(self._lingering) > LINGERING_MOST or all(pump.ended for pump in self._lingering[0].pumps):
            for pump in self._lingering.popleft().pumps:
                pump.close()
            if not self._lingering:
                return

    def _tidy(self, short: bool) -> None:
        now = time.monotonic()
        if len(self._all) > LOGS_MOST:
            self._remove_oldest(len(self._all) - LOGS_MOST)
        if short or now - self._disk_looked > _DISK_LOOK_SECONDS:
            self._disk_looked = now
            if self._disk_is_short():
                self._remove_oldest(max(0, len(self._all) - LOGS_LEAST))

    def _disk_is_short(self) -> bool:
        try:
            disk = os.statvfs(self._log)
        except OSError:
            return False
        return disk.f_bavail * disk.f_frsize < DISK_LEAST

    def _remove_oldest(self, count: int) -> None:
        old = [key for key, one in self._all.items() if one is None or one.finished][:count]
        for key in old:
            del self._all[key]
        if old:
            self._threads.submit(_remove_logs, [f"{self._log}/{key}" for key in old])

    def forget_finished(self) -> None:
        """Know nothing any more of what has finished."""
        over = [key for key, one in self._all.items() if one is None or one.finished]
        for key in over:
            del self._all[key]
        self._in_memory.clear()
        if over:
            self._threads.submit(_remove_logs, [f"{self._log}/{key}" for key in over])

    def find(self, process_id: str) -> Process | Finished | None:
        """The process with that id, or None."""
        if process_id not in self._all:
            return None
        found = self._all[process_id]
        return records.read_record(f"{self._log}/{process_id}") if found is None else found

    def get(self, process_id: str) -> Process | Finished:
        """The process with that id; Refused `not_found` where there is none."""
        found = self.find(process_id)
        if found is None:
            raise Refused("not_found", f"There is no process {process_id}")
        return found

    def running_one(self, process_id: str) -> Process:
        """The process with that id, which must not have finished; Refused `not_found` or `not_running`."""
        found = self.get(process_id)
        if not isinstance(found, Process) or found.finished:
            raise Refused("not_running", "The process has finished")
        return found

    def ids_after(self, after: str | None) -> list[str]:
        """All ids, oldest first, from the one after `after` on; Refused `not_found` where that is unknown."""
        ids = list(self._all)
        if after is None:
            return ids
        if after not in self._all:
            raise Refused("not_found", f"There is no process {after}")
        return ids[ids.index(after) + 1 :]

    def reap(self) -> None:
        """Take the statuses of children and orphans that have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            process = self._by_pid.pop(pid, None)
            if process is not None and not process.exited:
                process.exited_with(self._ending(process, status))

    def _ending(self, process: Process, status: int) -> Ending:
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            ending = Ending("exited", code, None, None)
        else:
            ending = Ending("signalled", 128 - code, -code, f"It was ended by {_signal_name(-code)}")
        killed = ending.exit_code == 128 + signal.SIGKILL
        if killed and not process.attended and self.oom_killed():
            return ending._replace(outcome="out_of_memory", reason="The memory limit was reached")
        return ending

    def stand(self) -> None:
        """No process's time passes from now on."""
        for process in self.running:
            process.stand()

    def go_on(self) -> None:
        """The time of those whose stood passes again."""
        for process in self.running:
            process.go_on()

    async def end_all(self) -> None:
        """Kill everything that runs."""
        enders = [process.end("cancelled", "The guest was ended", gentle=False) for process in self.running]
        if enders:
            await asyncio.wait(enders)
            await asyncio.sleep(0)

    def summary(self) -> dict[str, Any]:
        """Counts for `info`."""
        return {
            "processes": len(self._running),
            "terminals": sum(process.terminal is not None for process in self._running.values()),
        }


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _remove_logs(directories: list[str]) -> None:
    for directory in directories:
        records.remove_log(directory)
