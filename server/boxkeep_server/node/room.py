"""Room on a node: how many machines it takes, and what is done as memory runs short; pure but for two readers."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

GIB: Final = 1 << 30
MIB: Final = 1 << 20
SLOT_BYTES: Final = 384 * MIB
SPARE_DISK_BYTES: Final = 256 * MIB
"""What stays free of the disks: below it nothing new begins there."""
_RESERVE_LEAST: Final = 2 * GIB
_RESERVE_SHARE: Final = 0.15
# Shares of the reserve that are still available when each step is taken.
_DRAIN_BELOW: Final = 0.75
_REFUSE_BELOW: Final = 0.50
_END_BELOW: Final = 0.25
_END_ANYWAY_BELOW: Final = 0.10
# Shares of what all machines together may hold.
_DRAIN_ABOVE: Final = 0.90
_REFUSE_ABOVE: Final = 0.95
_END_ABOVE: Final = 0.98
# Percent of the last ten seconds in which something stood still for want of memory.
_STALLED: Final = 5.0


class Pressure(IntEnum):
    """How short memory is; each step includes those before it."""

    CALM = 0
    DRAIN = 1
    REFUSE = 2
    END = 3


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of the host in bytes. `stalled` is the PSI figure `some avg10`, None where the kernel has none.

    `machines_bytes` is what machines hold that cannot be taken from them, None where that is not known.
    """

    total: int
    available: int
    stalled: float | None = None
    machines_bytes: int | None = None


def reserve(total: int) -> int:
    """Bytes that stay the host's own."""
    return max(_RESERVE_LEAST, int(total * _RESERVE_SHARE))


def machines_limit(total: int) -> int:
    """Bytes that all machines together may use; a little is left to them even on a host that is too small."""
    return max(total - reserve(total), total // 4, 1)


def slots(total: int, wished: int | None) -> int:
    """How many sandboxes a host of that much memory takes at once."""
    return max(0, total - reserve(total)) // SLOT_BYTES if wished is None else wished


def pressure(memory: Memory) -> Pressure:
    """What the readings call for: the worse of what the host and what the machines' own bound say."""
    left = memory.available / reserve(memory.total)
    taken = (memory.machines_bytes or 0) / machines_limit(memory.total)
    stalled = memory.stalled is None or memory.stalled >= _STALLED
    if taken > _END_ABOVE or left < _END_ANYWAY_BELOW or (left < _END_BELOW and stalled):
        return Pressure.END
    if taken > _REFUSE_ABOVE or left < _REFUSE_BELOW:
        return Pressure.REFUSE
    if taken > _DRAIN_ABOVE or left < _DRAIN_BELOW:
        return Pressure.DRAIN
    return Pressure.CALM


def largest(held: Mapping[str, int]) -> str | None:
    """Which of the machines, by bytes that they hold, is ended first."""
    return max(held, key=lambda machine: (held[machine], machine), default=None)


def read_memory(meminfo: Path = Path("/proc/meminfo"), psi: Path = Path("/proc/pressure/memory")) -> Memory:
    """The host's memory now."""
    lines = (line.split() for line in meminfo.read_text().splitlines())
    fields = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) >= 2}
    return Memory(fields["MemTotal"], fields["MemAvailable"], _stalled(psi))


def _stalled(psi: Path) -> float | None:
    try:
        words = psi.read_text().split()
    except OSError:
        return None
    found = [word.removeprefix("avg10=") for word in words if word.startswith("avg10=")]
    return float(found[0]) if found else None
