"""What this host can and cannot do for Boxkeep, and how to mend it."""

import ipaddress
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from boxkeep_server.node.cgroups import layout
from boxkeep_server.node.mirrors import Mirror, configured
from boxkeep_server.node.nft import CONNECTIONS
from boxkeep_server.settings import Settings

GIB: Final = 1 << 30
LEAST_KERNEL: Final = (5, 19)
LEAST_DISK_GIB: Final = 15
LONGEST_SUBNET: Final = 28
_EARLIEST_S: Final = 1_767_225_600
"""The beginning of 2026: this program is younger."""
LEAST_RUNC: Final = (1, 1)
PROGRAMS: Final = {"ip": "iproute2", "nft": "nftables", "mkfs.btrfs": "btrfs-progs", "mmdebstrap": "mmdebstrap"}

Verdict = Literal["ok", "lost", "fatal"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `mend` says what to do and what is lost without it, empty when all is well."""

    subject: str
    verdict: Verdict
    seen: str
    mend: str = ""

    @property
    def fatal(self) -> bool:
        """Whether Boxkeep cannot run because of it."""
        return self.verdict == "fatal"

    def plain(self) -> dict[str, str]:
        """The same as a JSON object."""
        return asdict(self)


def examine(settings: Settings) -> list[Finding]:
    """Look at everything. Reads only."""
    return [
        judge_root(os.geteuid()),
        judge_kernel(platform.release()),
        *(judge_program(name, package, shutil.which(name)) for name, package in PROGRAMS.items()),
        *(judge_file_system(name, Path("/proc/filesystems").read_text()) for name in ("overlay", "btrfs")),
        judge_loop(Path("/dev/loop-control").exists()),
        judge_namespaces(*_namespaces()),
        judge_cgroups(),
        *judge_runtimes(settings),
        judge_disk(_free_gib(settings.lib_root), (settings.lib / "pool.img").exists()),
        judge_memory(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        judge_pids(int(Path("/proc/sys/kernel/pid_max").read_text())),
        judge_files(resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
        judge_connections(_number(Path("/proc/sys/net/netfilter/nf_conntrack_max"))),
        judge_subnet(settings.node.subnet, f"u{settings.instance}h", _routes()),
        judge_resolver(Path("/etc/resolv.conf")),
        judge_clock(time.time()),
        judge_sources(configured(Path("/etc"), Path("/nonexistent"), {})),
    ]


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


def judge_file_system(name: str, listed: str) -> Finding:
    """File systems of the kernel; a module that is not loaded yet counts."""
    loaded = re.search(rf"\b{name}$", listed, re.MULTILINE) is not None
    if loaded or subprocess.run(["modprobe", "--quiet", name], check=False).returncode == 0:
        return Finding(name, "ok", "in the kernel")
    return Finding(name, "fatal", "not in this kernel", f"Use a kernel with {name}; sandboxes' disks need it.")


def judge_loop(there: bool) -> Finding:
    """The disk pool is a file behind a loop device."""
    if there:
        return Finding("loop devices", "ok", "/dev/loop-control")
    return Finding("loop devices", "fatal", "none", "modprobe loop; inside a container, let it have loop devices.")


def judge_cgroups() -> Finding:
    """Ceilings are cgroups: version 1, 2 or both."""
    found = layout(Path("/proc/mounts").read_text())
    if found.unified:
        controllers = set((found.v2 / "cgroup.controllers").read_text().split()) if found.v2 else set()
    else:
        controllers = set(found.v1)
    missing = {"memory", "cpu", "pids"} - controllers
    kind = "version 2" if found.unified else "version 1 or hybrid"
    if not missing:
        return Finding("cgroups", "ok", kind)
    lacking = ", ".join(sorted(missing))
    return Finding(
        "cgroups", "fatal", f"{kind}, without {lacking}", f"Let the kernel and the container have {lacking}."
    )


def judge_runtimes(settings: Settings) -> list[Finding]:
    """runsc and runc; one of them is enough."""
    found = {name: _version(name) for name in settings.node.isolations}
    verdict: Verdict = "lost" if any(found.values()) else "fatal"
    lost = {
        "runsc": "Without it there is no gVisor: tenants share the host's kernel, and pausing keeps files alone.",
        "runc": "apt-get install runc; without it there is no fast tier.",
    }
    return [
        Finding(name, "ok", version) if version else Finding(name, verdict, "not installed", lost[name])
        for name, version in found.items()
    ]


def judge_disk(free_gib: int, has_pool: bool) -> Finding:
    """Images, packages and the disks of sandboxes."""
    if free_gib >= LEAST_DISK_GIB or has_pool:
        return Finding("free disk", "ok", f"{free_gib} GiB")
    return Finding(
        "free disk", "fatal", f"{free_gib} GiB", f"Free at least {LEAST_DISK_GIB} GiB, or set lib_root elsewhere."
    )


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


def judge_connections(most: int | None) -> Finding:
    """Connections of all sandboxes are remembered in the host's table too; each may have 4,096 at once."""
    if most is None:
        return Finding("connections", "ok", "not tracked yet")
    if most >= 32 * CONNECTIONS:
        return Finding("connections", "ok", f"{most} tracked at most")
    mend = f"sysctl net.netfilter.nf_conntrack_max=262144; {most // CONNECTIONS} greedy sandboxes fill the table now."
    return Finding("connections", "lost", f"{most} tracked at most", mend)


def judge_clock(now_s: float) -> Finding:
    """Expiry, signatures and certificates need the time."""
    seen = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now_s))
    if now_s >= _EARLIEST_S:
        return Finding("clock", "ok", seen)
    return Finding("clock", "fatal", seen, "Set the clock: certificates are not valid yet at this time.")


def judge_sources(mirrors: Sequence[Mirror]) -> Finding:
    """Images are made of packages from where this machine has its own."""
    hosts = sorted({mirror.host for mirror in mirrors})
    if hosts:
        return Finding("apt sources", "ok", ", ".join(hosts[:4]))
    return Finding("apt sources", "fatal", "none", "Name a Debian mirror in /etc/apt/sources.list; images need it.")


def judge_subnet(subnet: str, own: str, routes: Sequence[tuple[str, str]]) -> Finding:
    """The sandboxes' network must be nobody else's."""
    try:
        ours = ipaddress.IPv4Network(subnet)
    except ValueError as error:
        return Finding("subnet", "fatal", subnet, f"Set node.subnet to an IPv4 network: {error}.")
    if ours.prefixlen > LONGEST_SUBNET:
        mend = f"Set node.subnet to a /{LONGEST_SUBNET} or a larger one; each sandbox takes a /30."
        return Finding("subnet", "fatal", subnet, mend)
    taken = [f"{to} on {device}" for to, device in routes if device != own and ours.overlaps(ipaddress.IPv4Network(to))]
    if not taken:
        return Finding("subnet", "ok", subnet)
    return Finding("subnet", "fatal", f"{subnet} overlaps {', '.join(taken)}", "Set node.subnet to a free network.")


def judge_resolver(file: Path) -> Finding:
    """Sandboxes' names are asked of the host's resolvers."""
    lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
    found = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
    if found:
        return Finding("resolver", "ok", ", ".join(found))
    return Finding(
        "resolver", "lost", "none", "Name a resolver in /etc/resolv.conf; without it sandboxes resolve no names."
    )


def render(findings: Sequence[Finding]) -> str:
    """A table for a terminal."""
    marks = {"ok": "ok   ", "lost": "LOST ", "fatal": "FATAL"}
    lines = []
    for one in findings:
        lines.append(f"{marks[one.verdict]}  {one.subject:14}{one.seen}")
        if one.mend:
            lines.append(f"       {'':14}→ {one.mend}")
    return "\n".join(lines)


def _version(runtime: str) -> str | None:
    if shutil.which(runtime) is None:
        return None
    said = subprocess.run([runtime, "--version"], capture_output=True, text=True, check=False).stdout
    return said.splitlines()[0].partition("version ")[2] or said.strip() if said.strip() else None


def _namespaces() -> tuple[bool, int | None]:
    return Path("/proc/self/ns/net").exists(), _number(Path("/proc/sys/user/max_user_namespaces"))


def _number(file: Path) -> int | None:
    return int(file.read_text()) if file.exists() else None


def _routes() -> list[tuple[str, str]]:
    listed = subprocess.run(["ip", "-j", "-4", "route"], capture_output=True, text=True, check=False).stdout
    routes = json.loads(listed or "[]")
    return [(route["dst"], route.get("dev", "")) for route in routes if route["dst"] != "default"]


def _free_gib(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free // GIB
