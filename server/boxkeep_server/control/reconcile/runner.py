"""Runs reconcilers: on a hint at once, else on a period, each for itself and again after every failure."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from boxkeep_server.control.changes import Changes
from boxkeep_server.model.errors import Unavailable

_log = logging.getLogger(__name__)

BACKOFF_S = (0.1, 0.5, 1.0, 5.0)


@dataclass(frozen=True, slots=True)
class Round:
    """A reconciler: what to call, how often at least, and the topics whose hints call it earlier."""

    name: str
    run_once: Callable[[], Awaitable[int]]
    every_s: float
    topics: Sequence[str] = ()


async def run(rounds: Sequence[Round], changes: Changes) -> None:
    """Run all for ever."""
    async with asyncio.TaskGroup() as tasks:
        for one in rounds:
            tasks.create_task(_run(one, changes), name=f"reconcile:{one.name}")


async def _run(one: Round, changes: Changes) -> None:
    failures = 0
    with changes.listen(*one.topics) as ear:
        while True:
            try:
                await one.run_once()
                failures = 0
                await ear.heard(one.every_s)
            except Unavailable as away:
                _log.warning("%s waits for the store: %s", one.name, away)
                await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
                failures += 1
            except Exception:  # noqa: BLE001 - one bad row must not end the service; it is logged and tried again
                _log.exception("%s failed", one.name)
                await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
                failures += 1
