"""Idmapped mounts: a tree on disk with plain owners, shown shifted into a machine's own range of uids."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from boxkeep_server.node import syscalls

RANGE: Final = 65_536
# Above what distributions hand out in /etc/subuid, below 2³¹.
FIRST: Final = 0x4000_0000


def first_uid(index: int) -> int:
    """The first uid and gid of range number `index`, 0 ≤ index < 16,384."""
    if not 0 <= index < 16_384:
        raise ValueError(f"no such range of uids: {index}")
    return FIRST + index * RANGE


@contextmanager
def user_namespace(first: int) -> Iterator[int]:
    """A user namespace whose ids 0 to 65,535 are the host's from `first` on, as a descriptor."""
    # `cat` says by its echo that it runs in the new namespace.
    with subprocess.Popen(["unshare", "--user", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write(b"\n")
        holder.stdin.flush()
        if not holder.stdout.read(1):
            raise OSError("the host makes no user namespace")
        process = Path("/proc") / str(holder.pid)
        for file in ("uid_map", "gid_map"):
            (process / file).write_text(f"0 {first} {RANGE}\n")
        descriptor = os.open(process / "ns" / "user", os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
            holder.stdin.close()


def mount_shifted(tree: Path, target: Path, user_namespace: int) -> None:
    """Show `tree` at `target` with its owners shifted."""
    clone = syscalls.clone_tree(tree)
    try:
        syscalls.map_ids(clone, user_namespace)
        syscalls.attach_tree(clone, target)
    finally:
        os.close(clone)
