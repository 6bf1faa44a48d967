"""What this host is: memory and its accounts, processors, runtimes and what they need here, room for disks."""

import asyncio
import resource
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from boxkeep_server.model.node_api import Isolation, IsolationFacts
from boxkeep_server.node import probes
from boxkeep_server.node.cgroups import Layout
from boxkeep_server.node.oci import Host
from boxkeep_server.node.room import GIB, Memory, read_memory
from boxkeep_server.node.runtimes import Runtime, RuntimeFailed

_POOL_MOST_GIB: Final = 200
_POOL_LEAST_GIB: Final = 4
_HELD: Final = {"anon", "shmem", "total_rss", "total_shmem"}


def oci_host(layout: Layout) -> Host:
    """What of this host shapes OCI configs."""
    swap = layout.unified or (layout.v1["memory"] / "memory.memsw.limit_in_bytes").exists()
    return Host(open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[1], swap_accounting=swap)


def memory_reader(layout: Layout, parent: str) -> Memory:
    """The host's memory now, with what all machines below `parent` hold that cannot be taken from them."""
    top = layout.v2 if layout.unified else layout.v1["memory"]
    assert top is not None
    lines = [line.split() for line in (top / parent / "memory.stat").read_text().splitlines()]
    return replace(read_memory(), machines_bytes=sum(int(value) for name, value in lines if name in _HELD))


def pool_bytes(wished_gib: int | None, file: Path) -> int:
    """How large the disk pool may grow: as wished, or to half of what it has and the host has free."""
    if wished_gib is not None:
        return wished_gib * GIB
    has = file.stat().st_blocks * 512 if file.exists() else 0
    free_gib = (has + shutil.disk_usage(file.parent).free) // GIB
    return min(max(free_gib // 2, _POOL_LEAST_GIB), _POOL_MOST_GIB) * GIB


def processor_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """What this host's processors can, as the kernel names it."""
    for line in cpuinfo.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return tuple(sorted(value.split()))
    return ()


async def find_runtimes(wished: Sequence[Isolation], run: Path) -> dict[Isolation, Runtime]:
    """The wished runtimes that are installed and answer, in the order of the wish."""
    finders = {"runsc": probes.find_runsc, "runc": probes.find_runc}
    found = await asyncio.gather(*(finders[one](probes.on_path(one), run) for one in wished))
    return {isolation: runtime for isolation, runtime in zip(wished, found, strict=True) if runtime is not None}


async def isolation_facts(found: Mapping[Isolation, Runtime]) -> dict[Isolation, IsolationFacts]:
    """What each runtime says of itself; one that does not run is not there."""
    facts: dict[Isolation, IsolationFacts] = {}
    for isolation, runtime in found.items():
        try:
            version = await runtime.version()
        except (RuntimeFailed, OSError):
            continue
        facts[isolation] = IsolationFacts(version=version, pause_keeps="memory" if isolation == "runsc" else "files")
    return facts
