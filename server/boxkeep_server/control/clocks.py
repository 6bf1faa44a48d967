"""The clocks of this host, as control goes by them, and how a process beside the control plane goes by the same."""

import asyncio
import time
from contextlib import suppress
from pathlib import Path

from boxkeep_server.model.clocks import SteadyClock
from boxkeep_server.model.errors import Unavailable
from boxkeep_server.store import clocks
from boxkeep_server.store.database import Database

STEP_S = 0.5


def now_ms() -> int:
    """The wall clock, epoch ms."""
    return time.time_ns() // 1_000_000


def uptime_ms() -> int:
    """How long the host has been up, suspended or not, ms."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def monotonic_ms() -> float:
    """A clock that never goes back, ms."""
    return time.monotonic() * 1000


def boot_id() -> str:
    """Which boot of the host this is."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def host_clock() -> SteadyClock:
    """A clock that begins with what the host's says now."""
    return SteadyClock(now_ms, uptime_ms)


async def keep_in_step(database: Database, clock: SteadyClock) -> None:
    """Have a clock go as the control plane's does, which is in the store, for ever."""
    while True:
        with suppress(Unavailable):
            async with database.reading() as connection:
                ahead = await clocks.ahead_ms(connection, boot_id())
            clock.ahead_ms = clock.ahead_ms if ahead is None else ahead
        await asyncio.sleep(STEP_S)
