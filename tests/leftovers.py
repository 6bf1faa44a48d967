"""What the kernel still holds of an instance, seen from outside by its name and directories alone."""

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
NAMED_NAMESPACES = Path("/run/netns")


def leftovers(instance: str, roots: tuple[Path, ...]) -> dict[str, list[str]]:
    """What carries the instance's name or lies in its directories, by kind; kinds without any are left out."""
    found = {
        "processes": list(_processes(instance, roots)),
        "mounts": list(_mounts(roots)),
        "netns": [path.name for path in _children(NAMED_NAMESPACES) if _carries(path.name, instance)],
        "links": [name for name in _links() if _carries(name, instance)],
        "nft tables": [name for name in _nft_tables() if _carries(name, instance)],
        "cgroups": [str(path) for path in _cgroups(instance)],
        "loop devices": [name for name, file in _loops() if any(root in file.parents for root in roots)],
    }
    return {kind: items for kind, items in found.items() if items}


def on_host(words: str) -> list[int]:
    """The ids of the host's processes whose command line holds these words; a machine under runc shows its own."""
    found = []
    for directory in _children(Path("/proc")):
        try:
            if directory.name.isdigit() and words.encode() in (directory / "cmdline").read_bytes().replace(b"\0", b" "):
                found.append(int(directory.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def machine_processes(instance: str) -> list[int]:
    """The ids of the host's processes in the control groups of the instance's machines."""
    found: set[int] = set()
    for group in _cgroups(instance):
        for directory, _, _ in os.walk(group):  # which goes on past what ends meanwhile
            with contextlib.suppress(OSError):
                found.update(int(line) for line in Path(directory, "cgroup.procs").read_text().split())
    return sorted(found)


def _carries(name: str, instance: str) -> bool:
    """Whether a name has the instance's as a word of its own, or begins with it after our prefix."""
    return re.search(rf"(^|[^a-z0-9])(bx|bk|boxkeep)?{re.escape(instance)}([^a-z]|$)", name) is not None


def _children(directory: Path) -> list[Path]:
    return list(directory.iterdir()) if directory.is_dir() else []


def _processes(instance: str, roots: tuple[Path, ...]) -> Iterator[str]:
    words = (f"/{instance}/", *(f"{root}/" for root in roots))  # another instance's name may begin with ours
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        try:
            line = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            groups = (directory / "cgroup").read_text()
            if _is_over(directory):
                continue
        except (FileNotFoundError, ProcessLookupError):
            continue
        ours = any(word in line for word in words[1:]) or re.search(rf"/boxkeep[^\n]*\b{instance}\b", groups)
        if ours and "pytest" not in line:
            yield f"{directory.name} {line.strip()[:200]}"


def _is_over(process: Path) -> bool:
    """Whether it has ended already and only its parent, no longer ours, has not asked how."""
    return (process / "stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")


def _mounts(roots: tuple[Path, ...]) -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        target = line.split(" ")[4]
        if any(target.startswith(f"{root}/") for root in roots):
            yield target


def _links() -> list[str]:
    listed = subprocess.run(["ip", "-json", "link"], capture_output=True, check=True, text=True).stdout
    return [link["ifname"] for link in json.loads(listed)]


def _nft_tables() -> list[str]:
    listed = subprocess.run(["nft", "--json", "list", "tables"], capture_output=True, check=True, text=True).stdout
    return [entry["table"]["name"] for entry in json.loads(listed)["nftables"] if "table" in entry]


def _cgroups(instance: str) -> Iterator[Path]:
    for directory, names, _ in os.walk(CGROUPS):
        for path in (Path(directory, name) for name in names):
            if _carries(path.name, instance) and "boxkeep" in str(path):
                yield path


def _loops() -> Iterator[tuple[str, Path]]:
    listed = subprocess.run(["losetup", "--json", "--list"], capture_output=True, check=True, text=True).stdout
    for device in json.loads(listed)["loopdevices"] if listed.strip() else []:
        yield device["name"], Path(device["back-file"].removesuffix(" (deleted)"))
