"""What the node puts on a machine's disk before it runs: mount points, names, the resolver; by no symlink."""

import contextlib
import hashlib
import os
from pathlib import Path

from boxkeep_server.node import syscalls
from boxkeep_server.node.removal import remove_in


def furnish(upper: Path, machine: str, hostname: str, nameserver: str, fresh: bool) -> None:
    """Write what names a machine, and its resolver, over the image's; the resolver alone where it is not `fresh`."""
    write_file(upper, "etc/resolv.conf", f"nameserver {nameserver}\noptions timeout:2 attempts:3\n".encode())
    if fresh:
        # Open to all: root works here by default, `user` may too, and git trusts only what its user owns.
        _make(upper, "workspace", 0o777)
        hosts = f"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 {hostname}\n"
        write_file(upper, "etc/hosts", hosts.encode())
        write_file(upper, "etc/hostname", f"{hostname}\n".encode())
        write_file(upper, "etc/machine-id", f"{machine_id(machine)}\n".encode(), 0o444)


def machine_id(machine: str) -> str:
    """What /etc/machine-id says in a machine: its own, and nobody's who does not know the machine's."""
    return hashlib.sha256(f"machine-id {machine}".encode()).hexdigest()[:32]


def keep_tmp_on_disk(upper: Path) -> None:
    """Have something in /tmp: over an empty one runsc mounts a tmpfs, which would count as memory and be lost."""
    _make(upper, "tmp", 0o1777)
    write_file(upper, "tmp/.boxkeep", b"")


def make_directories(root: Path, paths: tuple[str, ...]) -> None:
    """Have a true directory at each of `paths` below `root`, whatever a tenant left there, and follow nothing.

    What is no directory is removed on the way. New directories belong to root, mode 0755.
    """
    for path in paths:
        _make(root, path, 0o755)


def _make(root: Path, path: str, mode: int) -> None:
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(_open_directory(top, path, mode))
    finally:
        os.close(top)


def write_file(root: Path, path: str, content: bytes, mode: int = 0o644) -> None:
    """Put a file of root's at `path` below `root` in place of whatever is there, and follow nothing."""
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        parent, _, name = path.rpartition("/")
        directory = _open_directory(top, parent)
    finally:
        os.close(top)
    try:
        _clear(directory, name)
        file = os.open(
            name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=directory
        )
        with os.fdopen(file, "wb") as stream:
            os.fchmod(file, mode)
            stream.write(content)
    finally:
        os.close(directory)


def _open_directory(top: int, path: str, mode: int = 0o755) -> int:
    """The directory at `path`, of `mode` where it is made; what leads there is made with 0755."""
    directory = os.dup(top)
    names = [name for name in path.split("/") if name]
    for depth, name in enumerate(names, 1):
        deeper = _open_or_make(directory, name, mode if depth == len(names) else 0o755)
        os.close(directory)
        directory = deeper
    return directory


def _open_or_make(directory: int, name: str, mode: int) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY
    try:
        return syscalls.open_beneath(directory, name, flags)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)
        os.mkdir(name, 0o700, dir_fd=directory)
        made = syscalls.open_beneath(directory, name, flags)
        os.fchmod(made, mode)
        return made


def _clear(directory: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        remove_in(directory, name)
