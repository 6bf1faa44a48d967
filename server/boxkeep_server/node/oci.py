"""From what a machine should be to its OCI config: pure, for runc with a user namespace and for runsc."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from boxkeep_server.model.node_api import Isolation
from boxkeep_server.node import seccomp
from boxkeep_server.node.idmap import RANGE

OURS: Final = "/.boxkeep"
GUEST: Final = "/.boxkeep/guest"
LOG: Final = "/.boxkeep/log"
BOOT_FILE: Final = "/.boxkeep/boot.json"
WORKSPACE: Final = "/workspace"
PORT: Final = 7071
DIRECTORIES: Final = ("proc", "sys", "dev", ".boxkeep")

_SHM: Final = "/dev/shm"  # noqa: S108
_SHM_MIB: Final = 512
_CPU_PERIOD_US: Final = 100_000
# What apt, sudo, tar and kill need of root inside; nothing of it reaches beyond the machine's own uids.
_CAPABILITIES: Final = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
)
# gVisor keeps these to itself: they are rights over its kernel, none over the host's.
_RUNSC_CAPABILITIES: Final = (*_CAPABILITIES, "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT")
# gVisor has no ceiling of its own for them: the guest keeps watch, and each costs a good deal more than on Linux.
_RUNSC_PIDS_SHARE: Final = 4
# The sentry's own threads count as well; out of them it dies with all that is in it.
_RUNSC_LEAST_PIDS: Final = 4096
# Below 0 is not ours to give; the host's services stay at 0 and go last.
_OOM_SCORE: Final = 200

_ENVIRONMENT: Final = (
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "LANG=C.UTF-8",
)
_MASKED: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/modules",
    "/proc/pressure",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/swaps",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/block",
    "/sys/devices/virtual/dmi",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs",
    "/sys/hypervisor",
    "/sys/kernel",
    "/sys/module",
    "/sys/power",
)
_READONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True)
class Ceilings:
    """What one machine may use at most. `disk_bytes` counts what it writes, not the image."""

    memory_bytes: int
    cpus: float
    pids: int
    disk_bytes: int


@dataclass(frozen=True)
class Host:
    """What of the host shapes a config: its hard limit of open files, and whether it accounts swap."""

    open_files: int
    swap_accounting: bool


@dataclass(frozen=True)
class Layout:
    """Where the parts of one machine lie on the host."""

    root: Path
    disk: Path
    sys: Path | None
    guest: Path
    netns: Path
    cgroup: str


def config(
    *,
    isolation: Isolation,
    layout: Layout,
    ceilings: Ceilings,
    host: Host,
    hostname: str,
    argv: Sequence[str],
    first_uid: int | None,
    cells: bool = False,
) -> dict[str, Any]:
    """The OCI config of a machine that runs `argv` as its PID 1. `first_uid` is given under runc alone; `cells` where
    its browser may make namespaces."""
    runc = isolation == "runc"
    capabilities = list(_CAPABILITIES if runc else _RUNSC_CAPABILITIES)
    # Within gVisor the guest alone has one right more, to name the machine: what it starts is bounded by the others.
    guests = capabilities if runc else [*capabilities, "CAP_SYS_ADMIN"]
    return {
        "ociVersion": "1.0.2",
        "hostname": hostname,
        "root": {"path": str(layout.root), "readonly": False},
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": list(argv),
            "env": list(_ENVIRONMENT),
            "cwd": "/",
            # sudo needs it off; in the user namespace it gives no right that root inside lacks.
            "noNewPrivileges": False,
            "capabilities": {"bounding": capabilities, "effective": guests, "permitted": guests},
            "rlimits": _limits(host),
            "oomScoreAdj": _OOM_SCORE,
        },
        "mounts": _mounts(layout),
        "linux": {
            "namespaces": _namespaces(layout.netns, runc),
            "cgroupsPath": layout.cgroup,
            "resources": _resources(ceilings, host, runc),
            **(_confinement(first_uid, cells) if first_uid is not None else {"seccomp": seccomp.gvisor_profile()}),
        },
    }


def boot_file(machine: str, secret: str, isolation: Isolation, ceilings: Ceilings) -> dict[str, Any]:
    """What the guest is told at its start, as docs/reference/guest-wire.md says."""
    return {
        "machine": machine,
        "secret": secret,
        "epoch": 0,
        # Within its own network, on whatever address it is given, now or when restored.
        "listen": ["0.0.0.0", PORT],  # noqa: S104
        "log": LOG,
        "workspace": WORKSPACE,
        "runtime": isolation,
        "memoryLimitBytes": ceilings.memory_bytes,
        "processLimit": ceilings.pids // _RUNSC_PIDS_SHARE if isolation == "runsc" else 0,
    }


def _limits(host: Host) -> list[dict[str, Any]]:
    open_files = min(host.open_files, 1 << 20)
    return [
        {"type": "RLIMIT_NOFILE", "soft": open_files, "hard": open_files},
        # 1, not 0: a handler of core dumps on the host is started at 0 and not at 1.
        {"type": "RLIMIT_CORE", "soft": 1, "hard": 1},
    ]


def _mounts(layout: Layout) -> list[dict[str, Any]]:
    quiet = ["nosuid", "noexec", "nodev"]
    sys = _bind(layout.sys, "/sys", *quiet, "ro") if layout.sys else _mount("sysfs", "/sys", *quiet, "ro")
    return [
        _mount("proc", "/proc", *quiet),
        sys,
        _mount("tmpfs", "/dev", "nosuid", "mode=755", "size=64k"),
        _mount("devpts", "/dev/pts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        _mount("mqueue", "/dev/mqueue", *quiet),
        _mount("tmpfs", _SHM, "nosuid", "nodev", "mode=1777", f"size={_SHM_MIB}m"),
        # A mount of its own, for a directory that only holds mounts could be moved away with them.
        _mount("tmpfs", OURS, *quiet, "mode=755", "size=64k"),
        _bind(layout.guest, GUEST, "nosuid", "nodev", "ro"),
        _bind(layout.disk / "log", LOG, *quiet, "rw"),
        _bind(layout.disk / "boot.json", BOOT_FILE, *quiet, "ro"),
    ]


def _mount(kind: str, target: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": kind, "options": list(options)}


def _bind(source: Path, target: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": "bind", "source": str(source), "options": ["bind", "private", *options]}


def _namespaces(netns: Path, runc: bool) -> list[dict[str, str]]:
    own = ["pid", "ipc", "uts", "mount", *(["user", "cgroup"] if runc else [])]
    return [{"type": "network", "path": str(netns)}, *({"type": kind} for kind in own)]


def _resources(ceilings: Ceilings, host: Host, runc: bool) -> dict[str, Any]:
    swap: Mapping[str, int] = {"swap": ceilings.memory_bytes} if host.swap_accounting else {}
    return {
        "devices": [{"allow": False, "access": "rwm"}],
        "memory": {"limit": ceilings.memory_bytes, **swap},
        "cpu": {"quota": int(ceilings.cpus * _CPU_PERIOD_US), "period": _CPU_PERIOD_US},
        "pids": {"limit": ceilings.pids if runc else max(ceilings.pids, _RUNSC_LEAST_PIDS)},
    }


def _confinement(first_uid: int, cells: bool) -> dict[str, Any]:
    mapping = [{"containerID": 0, "hostID": first_uid, "size": RANGE}]
    return {
        "uidMappings": mapping,
        "gidMappings": mapping,
        "seccomp": seccomp.profile(cells=cells),
        "maskedPaths": list(_MASKED),
        "readonlyPaths": list(_READONLY),
    }
