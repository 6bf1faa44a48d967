"""Processes of the machine: where the runtime has no ceiling for them, its watcher."""

import asyncio
import os

from boxkeep_guest.relief import Kind, Relief

BORN_A_SECOND = 2000
_PROC = "/proc"


def count() -> int:
    """How many processes there are, and a few names more: /proc has a link for each."""
    return os.stat(_PROC).st_nlink  # noqa: PTH116 - pathlib costs start-up


def next_look(processes: int, limit: int) -> float:
    """Seconds until the watcher should look again: before as many more could have been born."""
    return min(1.0, max(0.1, (limit - processes) / BORN_A_SECOND))


async def watch(limit: int, relief: Relief) -> None:
    """Look for ever, and end the tree with the most processes whenever there are more than `limit`."""
    if not limit:
        return
    kind = Kind(
        weight=lambda one: not one.zombie,
        event="processes.killed",
        unit="processes",
        outcome="signalled",
        reason=f"The sandbox had more than {limit} processes",
    )
    while True:
        now = count()
        if now > limit:
            await relief.end_largest(kind)
        await asyncio.sleep(next_look(now, limit))
