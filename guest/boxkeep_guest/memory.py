"""Memory of the machine: what is used, whether the kernel killed for it, and killing before the whole machine dies."""

import asyncio
import time

from boxkeep_guest.relief import Kind, Relief

_KIB = 1024
_COUNTERS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
_USAGES = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
FILLED_BYTES_A_SECOND = 2 * 1024**3
MARGIN_LEAST = 48 * 1024**2
OOM_TOLD_SECONDS = 1.0


def read_text(path: str) -> str:
    """The beginning of a small file, empty where it cannot be read."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:  # noqa: PTH123 - pathlib costs start-up
            return file.read(16384)
    except OSError:
        return ""


def kill_count(texts: list[str]) -> int:
    """How often the kernel killed for memory, from the text of the cgroup's event files."""
    rows = (line.split() for text in texts for line in text.splitlines())
    return sum(int(row[1]) for row in rows if len(row) == 2 and row[0] == "oom_kill" and row[1].isdecimal())


def figures(meminfo: str) -> dict[str, int]:
    """The figures of /proc/meminfo, in bytes."""
    rows = (line.split() for line in meminfo.splitlines())
    return {row[0].rstrip(":"): int(row[1]) * _KIB for row in rows if len(row) >= 2 and row[1].isdecimal()}


def margin(limit: int) -> int:
    """How much is kept free below a limit: filling it must take longer than looking."""
    return max(MARGIN_LEAST, limit // 20)


def next_look(used: int, limit: int) -> float:
    """Seconds until the watcher should look again: before what is free could be filled."""
    room = limit - margin(limit) - used
    return min(1.0, max(0.02, room / FILLED_BYTES_A_SECOND))


class OomCounter:
    """Tells whether the kernel has just killed for memory."""

    def __init__(self) -> None:
        self._last = self._count()
        self._rose = -OOM_TOLD_SECONDS

    @staticmethod
    def _count() -> int:
        return kill_count([read_text(path) for path in _COUNTERS])

    def killed_lately(self) -> bool:
        """Whether a kill happened since the last question, or within the second before."""
        count, now = self._count(), time.monotonic()
        if count > self._last:
            self._last, self._rose = count, now
        return now - self._rose < OOM_TOLD_SECONDS


class Memory:
    """The machine's memory as seen from inside; where the runtime would kill the whole machine, its watcher."""

    def __init__(self, limit: int, meminfo: str) -> None:
        self._told_limit = limit
        self._meminfo = meminfo

    def used(self) -> int:
        """Bytes in use, of the cgroup where it can be seen, else of all anonymous memory."""
        usage = _first_number(_USAGES)
        return usage if usage is not None else self.anonymous()

    def anonymous(self) -> int:
        """Bytes that cannot be given back: under runsc this counts tmpfs too."""
        return figures(read_text(self._meminfo)).get("AnonPages", 0)

    def limit(self) -> int:
        """The ceiling in bytes, 0 where unknown."""
        total = figures(read_text(self._meminfo)).get("MemTotal", 0)
        limit = self._told_limit or _first_number(_LIMITS) or total
        return min(limit, total) if total else limit

    async def watch(self, relief: Relief) -> None:
        """Look for ever, and end the largest tree whenever the limit is near."""
        limit = self.limit()
        if not limit:
            return
        while True:
            used = self.anonymous()
            if used > limit - margin(limit):
                await relief.end_largest(_MEMORY)
            await asyncio.sleep(next_look(used, limit))


_MEMORY = Kind(
    weight=lambda one: one.rss,
    event="memory.killed",
    unit="memoryBytes",
    outcome="out_of_memory",
    reason="The memory limit of the sandbox was near",
)


def _first_number(paths: tuple[str, ...]) -> int | None:
    for path in paths:
        text = read_text(path).strip()
        if text.isdecimal() and int(text) < 2**60:
            return int(text)
    return None
