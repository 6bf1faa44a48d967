"""What this host can and cannot do for Boxkeep, and how to mend it; by the standard library alone."""

import ctypes
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from boxkeep_server.node import doctor_disks as disks
from boxkeep_server.node import doctor_network as network
from boxkeep_server.node import doctor_ports
from boxkeep_server.node.cgroups import Layout, layout
from boxkeep_server.node.doctor_ports import DEFAULT, Ports
from boxkeep_server.node.findings import Finding
from boxkeep_server.node.mirrors import Mirror, configured

GIB: Final = 1 << 30
LEAST_KERNEL: Final = (5, 19)
_EARLIEST_S: Final = 1_767_225_600
"""The beginning of 2026: this program is younger."""
LEAST_RUNC: Final = "1.1"
LEAST_RUNSC: Final = "20240101"
RESOLVERS: Final = Path("/etc/resolv.conf")
PROGRAMS: Final = {"ip": "iproute2", "nft": "nftables", "mmdebstrap": "mmdebstrap"}
_OF_A_POOL: Final = {"mkfs.btrfs": "btrfs-progs"}
_UNSYNCHRONISED: Final = 0x40
_TIMEX: Final = 208
"""Bytes of the kernel's struct timex, at 40 of which is its status."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an installation is to be, as far as the host has to have room for it. `lib` is its data's directory."""

    instance: str
    subnet: str
    lib: Path
    isolations: tuple[str, ...] = ("runsc", "runc")
    disks: Literal["pool", "directory"] = "pool"
    ports: Ports = DEFAULT


def examine_host(wanted: Wanted) -> list[Finding]:
    """Look at what no installation changes. Reads only, but for modules of the kernel, which are loaded."""
    mounted = Path("/proc/self/mountinfo").read_text(errors="replace")
    cgroups = layout(Path("/proc/mounts").read_text())
    return [
        judge_root(os.geteuid()),
        judge_kernel(platform.release()),
        judge_init(Path("/run/systemd/system").is_dir(), shutil.which("systemctl") is not None),
        disks.judge_file_system("overlay", Path("/proc/filesystems").read_text()),
        *disks.examine(wanted.disks, wanted.lib),
        judge_namespaces(*_namespaces()),
        judge_proc(mounted),
        judge_inner_users(_number(_APPARMOR), _number(_CLONE)),
        judge_cgroups(cgroups, all(os.access(hierarchy, os.W_OK) for hierarchy in cgroups.hierarchies())),
        judge_memory(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        judge_pids(int(Path("/proc/sys/kernel/pid_max").read_text())),
        judge_files(resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
        network.judge_connections(_number(Path("/proc/sys/net/netfilter/nf_conntrack_max"))),
        network.judge_subnet(wanted.subnet, f"u{wanted.instance}h", _taken()),
        network.judge_resolver(RESOLVERS),
        network.judge_firewall(_rules("tables"), _rules("chains")),
        *doctor_ports.examine(wanted.ports, wanted.instance),
        judge_clock(time.time(), _clock_is_kept()),
        judge_sources(configured(Path("/etc"), Path("/nonexistent"), {})),
    ]


def examine(wanted: Wanted) -> list[Finding]:
    """Look at everything, what `make up` installs included."""
    programs = {**PROGRAMS, **(_OF_A_POOL if wanted.disks == "pool" else {})}
    findings = [
        *examine_host(wanted),
        *(judge_program(name, package, shutil.which(name)) for name, package in programs.items()),
        *examine_runtimes(wanted.isolations),
    ]
    return [*findings, judge_isolations(wanted.isolations, findings)]


def examine_runtimes(isolations: Sequence[str]) -> list[Finding]:
    """Look at the runtimes of the isolations that are allowed."""
    return judge_runtimes({name: _version(name) for name in isolations})


def judge_root(uid: int) -> Finding:
    """The node makes namespaces and mounts."""
    return Finding("root", "ok", "yes") if uid == 0 else Finding("root", "fatal", "no", "Run it as root.")


def judge_kernel(release: str) -> Finding:
    """Overlays take id-mapped layers since 5.19."""
    found = tuple(map(int, re.findall(r"\d+", release)[:2]))
    if found >= LEAST_KERNEL:
        return Finding("kernel", "ok", release)
    return Finding(
        "kernel", "lost", release, "runc machines need Linux 5.19 or newer; without it there is runsc alone."
    )


def judge_program(name: str, package: str, found: str | None) -> Finding:
    """Programs that the node calls."""
    if found:
        return Finding(name, "ok", found)
    return Finding(name, "fatal", "not installed", f"apt-get install {package}")


def judge_init(systemd_runs: bool, systemd_is_there: bool) -> Finding:
    """Who starts the services."""
    if systemd_runs:
        return Finding("init", "ok", "systemd")
    seen = "systemd is installed and not running" if systemd_is_there else "no systemd"
    return Finding("init", "lost", seen, "Run `make up` after each reboot: nothing else starts the services.")


def judge_proc(mountinfo: str) -> Finding:
    """runc's machines mount a /proc of their own, which the kernel refuses where every one here is partly covered."""
    lines = [line.split(" ") for line in mountinfo.splitlines()]
    targets = [words[4] for words in lines]
    whole = [words[4] for words in lines if words[words.index("-") + 1] == "proc"]
    covered = {root: [t for t in targets if t.startswith(f"{root}/") and not t.endswith(_EMPTY)] for root in whole}
    if not covered or not all(covered.values()):
        return Finding("proc", "ok", "whole")
    first = next(iter(covered.values()))[0]
    mend = "Unmount it, or turn lxcfs off for this container; without a whole /proc there is runsc alone."
    return Finding("proc", "lost", f"{first} is mounted over", mend)


_EMPTY: Final = ("/binfmt_misc", "/nfsd")
"""Directories of /proc that are there to be mounted over."""
_APPARMOR: Final = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
_CLONE: Final = Path("/proc/sys/kernel/unprivileged_userns_clone")


def judge_inner_users(apparmor: int | None, clone: int | None) -> Finding:
    """Chromium within runc makes user namespaces, without any right there; all that we make ourselves root makes."""
    if apparmor in (None, 0) and clone in (None, 1):
        return Finding("inner users", "ok", "allowed")
    name = _CLONE.name if clone == 0 else _APPARMOR.name
    mend = f"sysctl kernel.{name}={int(clone == 0)}; without it browsers run under runsc alone."
    return Finding("inner users", "lost", f"kernel.{name} forbids them", mend)


def judge_cgroups(found: Layout, writable: bool) -> Finding:
    """Ceilings are cgroups: version 1, 2 or both."""
    if found.unified:
        controllers = set((found.v2 / "cgroup.controllers").read_text().split()) if found.v2 else set()
    else:
        controllers = set(found.v1)
    missing = {"memory", "cpu", "pids"} - controllers
    kind = "version 2" if found.unified else "version 1 or hybrid"
    if missing:
        lacking = ", ".join(sorted(missing))
        mend = f"Let the kernel and the container have {lacking}."
        return Finding("cgroups", "fatal", f"{kind}, without {lacking}", mend)
    if not writable:
        return Finding("cgroups", "fatal", f"{kind}, read-only", "Let the container write its cgroups.")
    return Finding("cgroups", "ok", kind)


def judge_runtimes(found: Mapping[str, str | None]) -> list[Finding]:
    """runsc and runc by their versions, None where one is not there; see `judge_isolations`."""
    fit = {name: version is not None and _recent(name, version) for name, version in found.items()}
    lost = {
        "runsc": "Without one of 2024 or later there is no gVisor: tenants share the host's kernel, and pausing keeps "
        "files alone.",
        "runc": f"apt-get install runc, {LEAST_RUNC} or later; without it there is no fast tier.",
    }
    return [
        Finding(name, "ok", str(version))
        if fit[name]
        else Finding(name, "lost", version or "not installed", lost[name])
        for name, version in found.items()
    ]


_WITH: Final = {"runsc": "a version of 2024 or later", "runc": f"version {LEAST_RUNC} or later"}
_RUNC_NEEDS: Final = {
    "kernel": f"Linux {'.'.join(map(str, LEAST_KERNEL))} or newer",
    "namespaces": "user namespaces",
    "proc": "a whole /proc",
    disks.SHIFTED: "id-mapped mounts where the disks lie",
}


def judge_isolations(allowed: Sequence[str], findings: Sequence[Finding]) -> Finding:
    """One of those that are allowed is enough, with all that it needs of the host."""
    poor = {one.subject for one in findings if one.verdict != "ok"}
    lacking = [words for subject, words in _RUNC_NEEDS.items() if subject in poor]
    usable = [name for name in allowed if name not in poor and not (name == "runc" and lacking)]
    if usable:
        return Finding("isolation", "ok", ", ".join(usable))
    needs = {"runsc": [_WITH["runsc"]], "runc": [*([_WITH["runc"]] if "runc" in poor else []), *lacking]}
    ways = [f"{' and '.join(needs[name])} for {name}" for name in allowed]
    return Finding("isolation", "fatal", "no sandbox can run here", f"Let this host have {', or '.join(ways)}.")


def _recent(runtime: str, version: str) -> bool:
    """Whether a version will do; one that says nothing of itself, as of one's own making, is believed."""
    if runtime == "runsc":
        day = re.search(r"20\d{6}", version)
        return day is None or day[0] >= LEAST_RUNSC
    numbers = re.findall(r"\d+", version)[:2]
    return not numbers or [int(one) for one in numbers] >= [int(one) for one in LEAST_RUNC.split(".")]


def judge_memory(total: int) -> Finding:
    """2 GiB are kept for the host."""
    seen = f"{total / GIB:.1f} GiB"
    if total >= 3 * GIB:
        return Finding("memory", "ok", seen)
    return Finding("memory", "lost", seen, "2 GiB are kept for the host; under 3 GiB there is hardly a slot left.")


def judge_pids(most: int) -> Finding:
    """Every sandbox may have thousands of processes."""
    if most >= 131072:
        return Finding("pid_max", "ok", str(most))
    mend = "sysctl kernel.pid_max=4194304; with fewer, sandboxes full of processes leave none for others."
    return Finding("pid_max", "lost", str(most), mend)


def judge_files(hard: int) -> Finding:
    """Open files of one process, a sandbox's included."""
    if hard == resource.RLIM_INFINITY or hard >= 65536:
        return Finding("open files", "ok", str(hard))
    return Finding("open files", "lost", str(hard), "Raise the hard limit of open files to 65536 or more.")


def judge_namespaces(network: bool, users: int | None) -> Finding:
    """Every sandbox has a network namespace, under runc one of users too: of `users` at most, None when unknown."""
    if not network:
        return Finding("namespaces", "fatal", "no network namespaces", "Use a kernel with CONFIG_NET_NS.")
    if users == 0:
        mend = "sysctl user.max_user_namespaces=65536; without user namespaces there is no runc."
        return Finding("namespaces", "lost", "no user namespaces", mend)
    return Finding("namespaces", "ok", "network, user" if users else "network")


def judge_clock(now_s: float, kept: bool) -> Finding:
    """Expiry, signatures and certificates need the time."""
    seen = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now_s))
    if now_s < _EARLIEST_S:
        return Finding("clock", "fatal", seen, "Set the clock: certificates are not valid yet at this time.")
    if kept:
        return Finding("clock", "ok", seen)
    mend = "Let a service as systemd-timesyncd or chrony keep it; webhooks and S3 refuse a clock that is minutes off."
    return Finding("clock", "lost", f"{seen}, kept by nothing", mend)


def judge_sources(mirrors: Sequence[Mirror]) -> Finding:
    """Images are made of packages from where this machine has its own."""
    hosts = sorted({mirror.host for mirror in mirrors})
    if hosts:
        return Finding("apt sources", "ok", ", ".join(hosts[:4]))
    return Finding("apt sources", "fatal", "none", "Name a Debian mirror in /etc/apt/sources.list; images need it.")


def _version(runtime: str) -> str | None:
    said = _ran([runtime, "--version"]) if shutil.which(runtime) else None
    return said.splitlines()[0].partition("version ")[2] or said.strip() if said else None


def _ran(argv: Sequence[str]) -> str | None:
    """What a program says, None where it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None


def _namespaces() -> tuple[bool, int | None]:
    return Path("/proc/self/ns/net").exists(), _number(Path("/proc/sys/user/max_user_namespaces"))


def _number(file: Path) -> int | None:
    return int(file.read_text()) if file.exists() else None


def _taken() -> list[tuple[str, str]]:
    """Networks and addresses that this host itself needs, and where each is from."""
    listed = _ran(["ip", "-j", "-4", "route"]) if shutil.which("ip") else None
    routes = json.loads(listed or "[]")
    gateways = [(route["gateway"], route.get("dev", "")) for route in routes if "gateway" in route]
    named = [(one, RESOLVERS.name) for one in network.resolvers(RESOLVERS) if ":" not in one]
    return [(route["dst"], route.get("dev", "")) for route in routes if route["dst"] != "default"] + gateways + named


def _rules(kind: str) -> str:
    """nft's listing of all tables or chains; nothing where there is no nft, as before an installation."""
    return (_ran(["nft", "-j", "list", kind]) if shutil.which("nft") else None) or "{}"


def _clock_is_kept() -> bool:
    """Whether something tells the kernel that it keeps its clock right (adjtimex(2))."""
    state = ctypes.create_string_buffer(_TIMEX)
    answered = ctypes.CDLL(None).adjtimex(state)
    return answered >= 0 and not int.from_bytes(state.raw[40:44], "little") & _UNSYNCHRONISED
