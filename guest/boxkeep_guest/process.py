"""A process from its start to its one outcome: output, input, time limit, and the end of its whole tree."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from boxkeep_guest import terminal
from boxkeep_guest.errors import Refused
from boxkeep_guest.intake import Intake
from boxkeep_guest.output import Output
from boxkeep_guest.pump import Pump
from boxkeep_guest.records import Ending, Spec, Terminal, ended, first_record, with_outputs
from boxkeep_guest.tree import Tree

QUIET_SECONDS = 0.2
DRAIN_MOST_SECONDS = 5.0
GENTLE_SECONDS = 2.0
KILL_MOST_SECONDS = 10.0


class Process:
    """A running process. All methods belong to the event loop; `changed` and `done` wake whoever follows it."""

    def __init__(
        self,
        spec: Spec,
        user: str,
        outputs: dict[str, Output],
        threads: Executor,
        settled: Callable[["Process"], None],
    ) -> None:
        self.spec = spec
        self.outputs = outputs
        self.pumps: list[Pump] = []
        self.intake: Intake | None = None
        self.terminal: int | None = None
        self.tree: Tree | None = None
        self.pid = 0
        self.done = asyncio.Event()
        self._threads = threads
        self._settled = settled
        self._started = time.monotonic()
        self._record = first_record(spec, 0, user, time.time_ns() // 1_000_000)
        self._waiters: list[asyncio.Future[None]] = []
        self._exited: float | None = None
        self._status: Ending | None = None
        self._decided: Ending | None = None
        self._ender: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._last_output = self._started
        self._stood_at: float | None = None
        self._feeder: asyncio.Task[None] | None = None

    @property
    def finished(self) -> bool:
        """Whether it has its outcome."""
        return self.done.is_set()

    @property
    def exited(self) -> bool:
        """Whether its first process is gone."""
        return self._exited is not None

    @property
    def attended(self) -> bool:
        """Whether somebody has decided its end already."""
        return self._decided is not None

    def record(self) -> dict[str, Any]:
        """The wire's record, as of now."""
        return self._record if self.finished else with_outputs(self._record, self.outputs)

    def begun(self, pid: int, tree: Tree) -> None:
        """It runs as `pid`; its time begins."""
        self.pid = self._record["pid"] = pid
        self.tree = tree
        if self.spec.timeout_ms is not None:
            self._timer = asyncio.get_running_loop().call_later(self.spec.timeout_ms / 1000, self._time_is_up)

    def stand(self) -> None:
        """Its time stands still from now on. The clock does not while the machine is paused: gVisor sets it ahead."""
        if self._stood_at is None and not self.exited:
            self._stood_at = time.monotonic()
            if self._timer is not None:
                self._timer.cancel()

    def go_on(self) -> None:
        """Its time goes on where it stood."""
        if self._stood_at is None:
            return
        self._started += time.monotonic() - self._stood_at
        self._stood_at = None
        if self.spec.timeout_ms is not None and not self.exited:
            left = self._started + self.spec.timeout_ms / 1000 - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(max(0.0, left), self._time_is_up)

    def feed(self, data: bytes, more: bool) -> None:
        """Give it its first input, then close unless there will be `more`."""
        assert self.intake is not None
        data = data[self.intake.write_now(data) :] if data else b""
        if data:
            self._feeder = asyncio.get_running_loop().create_task(self._feed(data, more))
        elif not more:
            self.intake.close()

    async def _feed(self, data: bytes, more: bool) -> None:
        assert self.intake is not None
        try:
            await self.intake.write(data)
        except Refused:
            return
        if not more:
            self.intake.close()

    def output_changed(self) -> None:
        """A pump moved bytes or saw the end."""
        self._last_output = time.monotonic()
        if self.exited and all(pump.ended for pump in self.pumps):
            self._settle()
        self._wake()

    def exited_with(self, ending: Ending) -> None:
        """Its first process is gone: drain what it wrote, then finish."""
        self._exited = self._last_output = time.monotonic()
        self._status = ending
        if self.tree is not None:
            self.tree.root_gone()
        for pump in self.pumps:
            pump.drain()
        self._settle()

    def _settle(self) -> None:
        """Finish if the output is drained, or look again when it may be."""
        if self.finished or self._exited is None or self._ender is not None:
            return
        now = time.monotonic()
        drained = all(pump.ended for pump in self.pumps)
        busy = any(pump.busy for pump in self.pumps)
        quiet = now - self._last_output >= QUIET_SECONDS and not busy
        if drained or quiet or now - self._exited >= DRAIN_MOST_SECONDS:
            self._finish()
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(QUIET_SECONDS / 4, self._settle)

    def _finish(self) -> None:
        ending = self._decided or self._status
        assert ending is not None
        if self._status is not None and self._decided is not None:
            ending = Ending(ending.outcome, self._status.exit_code, self._status.signal, ending.reason)
        if self._timer is not None:
            self._timer.cancel()
        duration = int((time.monotonic() - self._started) * 1000)
        record = with_outputs(self._record, self.outputs)
        self._record = ended(record, ending, record["startedAt"] + duration, duration)
        self._let_go()
        self.done.set()
        self._wake()
        asyncio.get_running_loop().call_soon(self._settled, self)  # whoever waits for the answer goes first

    def _let_go(self) -> None:
        if self._feeder is not None:
            self._feeder.cancel()
        if self.intake is not None:
            self.intake.close()
        for pump in self.pumps:
            if self.terminal is not None:
                pump.close()
            else:
                pump.discard()
        self.terminal = None
        for output in self.outputs.values():
            output.close()

    def never_started(self, code: int, sentence: str) -> None:
        """It could not be executed: it has finished with the exit code of custom and a sentence on its stderr."""
        text = sentence.encode("utf-8", "surrogateescape")
        stream = self.outputs["stdout" if self.spec.pty else "stderr"]
        stream.store(text)
        stream.commit(text, len(text))
        self._status = Ending("exited", code, None, None)
        self._finish()

    def resize(self, size: Terminal, announce: bool) -> None:
        """Set the terminal's size; `announce` it to its programs where the kernel does not."""
        if self.terminal is None or self.tree is None:
            return
        terminal.set_size(self.terminal, size)
        if announce and not terminal.announce_size(self.terminal):
            self._threads.submit(self.tree.signal_session, signal.SIGWINCH)

    def signal_group(self, number: int) -> None:
        """Send a signal to its process group. Raises Refused `not_running` when the first process is gone."""
        if self.exited:
            raise Refused("not_running", "The process is gone")
        os.killpg(self.pid, number)

    async def changed(self) -> None:
        """Return at the next output or end."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _time_is_up(self) -> None:
        if not self.exited:
            self.end("timed_out", f"It ran longer than {self.spec.timeout_ms} ms", gentle=True)

    def cancelled(self) -> None:
        """A kill was asked for by the user: that is its outcome if it ends by it."""
        if not self.exited and self._decided is None:
            self._decided = Ending("cancelled", None, None, "It was cancelled")

    def end(self, outcome: str, reason: str, gentle: bool) -> "asyncio.Task[None]":
        """End the whole tree with that outcome; the first who decides wins."""
        if self._decided is None and not self.exited:
            self._decided = Ending(outcome, None, None, reason)
        if self._ender is None:
            self._ender = asyncio.get_running_loop().create_task(self._end(gentle))
        return self._ender

    async def _end(self, gentle: bool) -> None:
        assert self.tree is not None
        loop = asyncio.get_running_loop()
        try:
            if gentle:
                await loop.run_in_executor(self._threads, self.tree.signal, signal.SIGTERM)
                await self._until_empty()
            await loop.run_in_executor(self._threads, self.tree.kill)
            await self._until_exited()
        finally:
            self._ender = None
        if self._exited is None:
            self._exited = time.monotonic()
            self._finish()
        else:
            for pump in self.pumps:
                pump.drain()
            self._settle()

    async def _until_empty(self) -> None:
        assert self.tree is not None
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + GENTLE_SECONDS, 0.02
        while loop.time() < deadline:
            await asyncio.sleep(min(pause, deadline - loop.time()))
            pause *= 2
            if self.exited and not await loop.run_in_executor(self._threads, self.tree.look):
                return

    async def _until_exited(self) -> None:
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + KILL_MOST_SECONDS, 0.005
        while self._exited is None and loop.time() < deadline:
            await asyncio.sleep(pause)
            pause = min(0.1, pause * 2)
