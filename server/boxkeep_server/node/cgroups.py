"""Cgroups v1, hybrid and v2: one parent bounds all machines of an instance, one child each."""

import contextlib
import errno
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from boxkeep_server.model.ids import is_id

_V1_SHARES: Final = "256"
_V1_BLKIO_WEIGHT: Final = "100"
_V1_SOCKETS: Final = "memory.kmem.tcp.limit_in_bytes"
# Of the memory: all machines together stay below what the kernel calls pressure (net.ipv4.tcp_mem), the host's own too.
_V1_SOCKETS_SHARE: Final = 16
_V2_WEIGHT: Final = "25"
_PATIENCE_S: Final = 5.0


@dataclass(frozen=True)
class Usage:
    """What a machine has used: bytes now, CPU milliseconds so far, processes killed for memory so far."""

    memory_bytes: int
    cpu_ms: int
    oom_kills: int


@dataclass(frozen=True)
class Layout:
    """How cgroups are mounted on this host: the v1 hierarchies by controller, and the v2 one if it is there."""

    v1: dict[str, Path]
    v2: Path | None

    @property
    def unified(self) -> bool:
        """Whether v2 alone rules, controllers and all."""
        return "memory" not in self.v1

    def hierarchies(self) -> list[Path]:
        """Every mounted hierarchy once."""
        return list(dict.fromkeys([*self.v1.values(), *([self.v2] if self.v2 else [])]))


def layout(table: str) -> Layout:
    """Read a mount table in the form of /proc/mounts."""
    v1: dict[str, Path] = {}
    v2: Path | None = None
    for line in table.splitlines():
        _, target, kind, options, *_ = line.split(" ")
        if kind == "cgroup2":
            v2 = v2 or Path(target)
        elif kind == "cgroup":
            for option in options.split(","):
                if option in _CONTROLLERS or option.startswith("name="):
                    v1.setdefault(option, Path(target))
    return Layout(v1, v2)


_CONTROLLERS: Final = frozenset({"cpu", "cpuacct", "cpuset", "memory", "freezer", "blkio", "pids", "devices"})


class Cgroups:
    """The cgroups of one instance: `<parent>` and below it one for each machine. Every call is short."""

    def __init__(self, layout: Layout, parent: str) -> None:
        self._layout = layout
        self.parent = parent

    def open(self, memory_bytes: int) -> None:
        """Make the parent: at most `memory_bytes` for all machines, little weight beside the host. May be repeated."""
        for hierarchy in self._layout.hierarchies():
            (hierarchy / self.parent).mkdir(exist_ok=True)
        if self._layout.unified:
            assert self._layout.v2 is not None
            self._delegate(self._layout.v2)
            self._delegate(self._layout.v2 / self.parent)
            settings = {"memory.max": str(memory_bytes), "cpu.weight": _V2_WEIGHT, "io.weight": _V2_WEIGHT}
            for file, value in settings.items():
                _try_write(self._layout.v2 / self.parent / file, value)
            return
        self._v1("memory", self.parent, "memory.use_hierarchy", "1")
        self._v1("memory", self.parent, "memory.limit_in_bytes", str(memory_bytes))
        self._v1("memory", self.parent, _V1_SOCKETS, str(memory_bytes // _V1_SOCKETS_SHARE))
        self._v1("cpu", self.parent, "cpu.shares", _V1_SHARES)
        self._v1("blkio", self.parent, "blkio.weight", _V1_BLKIO_WEIGHT)
        for file in ("cpuset.cpus", "cpuset.mems"):
            self._inherit_cpuset(file)

    def bound_sockets(self, machine: str, memory_bytes: int) -> None:
        """Have what the kernel holds in a machine's sockets counted and bounded. To be called before it is created.

        v2 counts it as the machine's memory anyway; v1 does not at all, but for sockets made after it was asked to.
        """
        if not self._layout.unified:
            path = self.path(machine)[1:]
            (self._layout.v1["memory"] / path).mkdir(exist_ok=True)
            self._v1("memory", path, _V1_SOCKETS, str(memory_bytes // _V1_SOCKETS_SHARE))

    def close(self) -> None:
        """Remove every machine's cgroup and the parent, with what runs in them. May be repeated."""
        for machine in self.machines():
            self.remove(machine)
        for hierarchy in self._layout.hierarchies():
            with contextlib.suppress(FileNotFoundError):
                (hierarchy / self.parent).rmdir()

    def path(self, machine: str) -> str:
        """A machine's cgroup, as OCI configs name it."""
        if not is_id(machine):
            raise ValueError(f"not a machine id: {machine!r}")
        return f"/{self.parent}/{machine}"

    def machines(self) -> list[str]:
        """The ids of every machine that has a cgroup in any hierarchy."""
        found: set[str] = set()
        for hierarchy in self._layout.hierarchies():
            with contextlib.suppress(FileNotFoundError):
                found.update(entry.name for entry in (hierarchy / self.parent).iterdir() if is_id(entry.name))
        return sorted(found)

    def processes(self, machine: str) -> set[int]:
        """The host pids of everything in a machine."""
        pids: set[int] = set()
        for directory in self._tree(machine):
            with contextlib.suppress(FileNotFoundError, OSError):
                pids.update(int(line) for line in (directory / "cgroup.procs").read_text().split())
        return pids - {0}

    def kill(self, machine: str) -> None:
        """Kill everything in a machine; it may take a moment longer to be gone. May be repeated."""
        for directory in self._tree(machine):
            if (directory / "cgroup.kill").exists():
                _try_write(directory / "cgroup.kill", "1")
        for pid in self.processes(machine):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.freeze(machine, False)

    def freeze(self, machine: str, frozen: bool) -> None:
        """Stop everything in a machine from running, or let it run again. Answers before the last has stopped."""
        path = self.path(machine)[1:]
        if self._layout.unified:
            assert self._layout.v2 is not None
            _try_write(self._layout.v2 / path / "cgroup.freeze", "1" if frozen else "0")
        else:
            self._v1("freezer", path, "freezer.state", "FROZEN" if frozen else "THAWED")

    def frozen(self, machine: str) -> bool:
        """Whether everything in a machine has stopped."""
        path = self.path(machine)[1:]
        if self._layout.unified:
            assert self._layout.v2 is not None
            return "frozen 1" in (self._layout.v2 / path / "cgroup.events").read_text()
        return (self._layout.v1["freezer"] / path / "freezer.state").read_text().strip() == "FROZEN"

    def remove(self, machine: str) -> None:
        """Kill what runs in a machine and remove its cgroup. Blocking; may be repeated.

        Raises:
            TimeoutError: a process did not go within 5 s.
        """
        deadline = time.monotonic() + _PATIENCE_S
        while not self._removed(machine):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the processes of machine {machine} do not go: {sorted(self.processes(machine))}")
            self.kill(machine)
            time.sleep(0.002)

    def usage(self, machine: str) -> Usage:
        """What a machine uses.

        Raises:
            FileNotFoundError: it has no cgroup.
        """
        path = self.path(machine)[1:]
        if self._layout.unified:
            assert self._layout.v2 is not None
            directory = self._layout.v2 / path
            return Usage(
                memory_bytes=int((directory / "memory.current").read_text()),
                cpu_ms=_field(directory / "cpu.stat", "usage_usec") // 1000,
                oom_kills=_field(directory / "memory.events", "oom_kill"),
            )
        memory = self._layout.v1["memory"] / path
        return Usage(
            memory_bytes=int((memory / "memory.usage_in_bytes").read_text()),
            cpu_ms=int((self._layout.v1["cpuacct"] / path / "cpuacct.usage").read_text()) // 1_000_000,
            oom_kills=_field(memory / "memory.oom_control", "oom_kill"),
        )

    def _removed(self, machine: str) -> bool:
        for directory in self._tree(machine):
            try:
                directory.rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                return False
        return True

    def _tree(self, machine: str) -> list[Path]:
        """Every directory of a machine's cgroup in every hierarchy, deepest first."""
        path = self.path(machine)[1:]
        return [
            Path(directory)
            for hierarchy in self._layout.hierarchies()
            for directory, _, _ in os.walk(hierarchy / path, topdown=False)
        ]

    def _delegate(self, directory: Path) -> None:
        available = (directory / "cgroup.controllers").read_text().split()
        for controller in ("cpu", "memory", "pids", "io", "cpuset"):
            if controller in available:
                _try_write(directory / "cgroup.subtree_control", f"+{controller}")

    def _inherit_cpuset(self, file: str) -> None:
        cpuset = self._layout.v1.get("cpuset")
        if cpuset is not None and not (cpuset / self.parent / file).read_text().strip():
            (cpuset / self.parent / file).write_text((cpuset / file).read_text())

    def _v1(self, controller: Literal["memory", "cpu", "blkio", "freezer"], path: str, file: str, value: str) -> None:
        if controller in self._layout.v1:
            _try_write(self._layout.v1[controller] / path / file, value)


def host_cgroups(instance: str) -> Cgroups:
    """Those of an instance on this host."""
    return Cgroups(layout(Path("/proc/mounts").read_text()), f"boxkeep-{instance}")


def _try_write(file: Path, value: str) -> None:
    """Write a cgroup file where this kernel has it."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        try:
            with file.open("r+") as stream:
                stream.write(value)
        except OSError as error:
            if error.errno not in (errno.ENODEV, errno.EOPNOTSUPP):
                raise


def _field(file: Path, name: str) -> int:
    for line in file.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
