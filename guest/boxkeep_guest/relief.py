"""Ends the tree of processes that takes most of something, before the whole machine dies for the lack of it."""

import asyncio
import os
import signal
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple

from boxkeep_guest.processes import Processes
from boxkeep_guest.tree import Seen, Tree, largest, send, snapshot


class Kind(NamedTuple):
    """What is short: how a process weighs in it, the event that tells of a kill, and the outcome of what was killed."""

    weight: Callable[[Seen], int]
    event: str
    unit: str
    outcome: str
    reason: str


class Relief:
    """Finds who takes the most, and ends it. `tell` gets an event for each kill."""

    def __init__(self, processes: Processes, threads: Executor, tell: Callable[[dict[str, Any]], None]) -> None:
        self._processes = processes
        self._threads = threads
        self._tell = tell

    async def end_largest(self, kind: Kind) -> None:
        """End the tree of a process that we started; of processes that belong to none, the heaviest alone."""
        loop = asyncio.get_running_loop()
        spawner = self._processes.spawner
        seen = await loop.run_in_executor(self._threads, snapshot, spawner.limit_name)
        found = largest(seen, spawner.marks, os.getpid() == 1, kind.weight)
        if found is None:
            return
        mark, size, pid = found
        process = self._processes.marked(mark)
        self._tell({"event": kind.event, "id": process and process.spec.id, "pid": pid, kind.unit: size})
        if process is not None:
            await process.end(kind.outcome, kind.reason, gentle=False)
        elif mark:
            await loop.run_in_executor(self._threads, Tree(-1, mark, spawner.limit_name).kill)
        else:
            send(pid, signal.SIGKILL)
