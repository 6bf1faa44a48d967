"""What doctor says of where sandboxes' disks are to lie: a pool of btrfs, or a plain directory."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, Literal

from boxkeep_server.node.findings import Finding

SHIFTED: Final = "shifted disks"
LEAST_DISK_GIB: Final = 15
GIB: Final = 1 << 30
INSTEAD: Final = (
    'or set node.disks = "directory" (`make up DISKS=directory` the first time): no sandbox\'s disk has a limit then, '
    "and pauses, checkpoints and forks copy it."
)


def examine(kind: Literal["pool", "directory"], lib: Path) -> list[Finding]:
    """Look at what disks of that kind need, where `lib` is or is to be."""
    free = judge_free(shutil.disk_usage(existing(lib)).free // GIB, any((lib / name).exists() for name in _PLACES))
    if kind == "directory":
        overlay, shifted, shares = tried(existing(lib))
        return [judge_directory(overlay, shares), judge_shifted(shifted), free]
    return [
        judge_file_system("btrfs", Path("/proc/filesystems").read_text(), INSTEAD),
        judge_loop(Path("/dev/loop-control").exists()),
        free,
    ]


_PLACES: Final = ("pool.img", "disks")


def judge_file_system(name: str, listed: str, otherwise: str = "sandboxes' disks need it.") -> Finding:
    """File systems of the kernel; a module that is not loaded yet counts."""
    loaded = re.search(rf"\b{name}$", listed, re.MULTILINE) is not None
    if loaded or (shutil.which("modprobe") and _succeeds("modprobe", "--quiet", name)):
        return Finding(name, "ok", "in the kernel")
    return Finding(name, "fatal", "not in this kernel", f"Use a kernel with {name}, {otherwise}")


def judge_loop(there: bool) -> Finding:
    """The disk pool is a file behind a loop device."""
    if there:
        return Finding("loop devices", "ok", "/dev/loop-control")
    return Finding(
        "loop devices", "fatal", "none", f"modprobe loop, inside a container let it have loop devices, {INSTEAD}"
    )


def judge_directory(overlay: str | None, shares: bool) -> Finding:
    """Why no overlay lies in a directory, None where one does, and whether copies there share what is the same."""
    if overlay is not None:
        return Finding("directory", "fatal", overlay, "Set lib_root to a directory on ext4, XFS or btrfs.")
    lost = "No sandbox's disk has a limit: one can fill it for all"
    if shares:
        return Finding("directory", "lost", "copies share space", f"{lost}.")
    mend = f"{lost}, and each pause, resume, checkpoint and fork writes a whole disk; XFS and btrfs would share it."
    return Finding("directory", "lost", "copies are whole", mend)


def judge_shifted(fault: str | None) -> Finding:
    """Under runc the owners of files are shifted by the mount."""
    if fault is None:
        return Finding(SHIFTED, "ok", "owners of files can be shifted")
    mend = "Set lib_root to a directory on ext4, XFS or btrfs; without id-mapped mounts there is runsc alone."
    return Finding(SHIFTED, "lost", fault, mend)


def judge_free(free_gib: int, is_there: bool) -> Finding:
    """Images, packages and the disks of sandboxes."""
    if free_gib >= LEAST_DISK_GIB or is_there:
        return Finding("free disk", "ok", f"{free_gib} GiB")
    return Finding(
        "free disk", "fatal", f"{free_gib} GiB", f"Free at least {LEAST_DISK_GIB} GiB, or set lib_root elsewhere."
    )


def tried(directory: Path) -> tuple[str | None, str | None, bool]:
    """What `disk_trial` finds out, in a process of its own for the sake of its mounts."""
    asked: list[str | Path] = [sys.executable, "-m", "boxkeep_server.node.disk_trial", directory]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        words = done.stderr.strip().rpartition("\n")[2]
        return words, words, False
    found = json.loads(done.stdout)
    return found["overlay"], found["shifted"], found["shares"]


def existing(path: Path) -> Path:
    """A directory, or the nearest above it that is there."""
    while not path.exists():
        path = path.parent
    return path


def _succeeds(*argv: str) -> bool:
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0
