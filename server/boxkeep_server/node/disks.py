"""The disk pool: one loop file with btrfs, one subvolume with a limit for each machine."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from boxkeep_server.model.ids import is_id
from boxkeep_server.node import btrfs, syscalls
from boxkeep_server.node.mountspace import mounts, unmount_below

OPTIONS: Final = "loop,noatime,discard=async,compress=zstd:1,nosuid,nodev"
PARTS: Final = ("upper", "work", "log")


class Disks:
    """The pool at `mount`, kept in `file`. To be used from inside the mount space; every call is blocking.

    A machine's disk is the subvolume `machines/<id>` with the directories of `PARTS`. Files in it carry the owners
    that the machine sees, whatever range of uids it runs in, so a disk may move between isolations and nodes.
    """

    def __init__(self, file: Path, mount: Path) -> None:
        self._file = file
        self.pool = mount
        self.images = mount / "images"
        self._machines = mount / "machines"

    def open(self, size_bytes: int) -> None:
        """Make, mount and grow the pool to `size_bytes` (never shrunk). May be repeated."""
        self._grow_file(size_bytes)
        self.pool.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.is_open():
            subprocess.run(["mount", "-t", "btrfs", "-o", OPTIONS, self._file, self.pool], check=True)
        self.pool.chmod(0o700)
        for device in self._loop_devices():
            subprocess.run(["losetup", "--set-capacity", device], check=True)
        btrfs.grow(self.pool)
        btrfs.enable_quota(self.pool)
        for directory in (self.images, self._machines):
            directory.mkdir(mode=0o700, exist_ok=True)

    def is_open(self) -> bool:
        """Whether the pool is mounted here."""
        return any(entry.target == str(self.pool) for entry in mounts())

    def close(self) -> None:
        """Unmount the pool; its loop device goes with it. May be repeated."""
        unmount_below(self.pool)

    def path(self, machine: str) -> Path:
        """Where a machine's disk is, whether it is there or not."""
        if not is_id(machine):
            raise ValueError(f"not a machine id: {machine!r}")
        return self._machines / machine

    def create(self, machine: str, limit_bytes: int) -> Path:
        """A new, empty disk.

        Raises:
            FileExistsError: the machine has one.
        """
        path = self.path(machine)
        btrfs.create_subvolume(self._machines, machine)
        btrfs.limit(path, limit_bytes)
        for part in PARTS:
            (path / part).mkdir(mode=0o755)
        return path

    def snapshot(self, source: str, machine: str, limit_bytes: int) -> Path:
        """A disk that begins as `source` is now.

        Crash-consistent while the source runs; exact when it is frozen or gone. `work` is emptied, as overlayfs asks.
        """
        path = self.path(machine)
        btrfs.create_snapshot(self.path(source), self._machines, machine)
        btrfs.limit(path, limit_bytes)
        shutil.rmtree(path / "work")
        (path / "work").mkdir(mode=0o755)
        return path

    def delete(self, machine: str) -> None:
        """Remove a machine's disk and what was kept of its limit. May be repeated."""
        path = self.path(machine)
        with contextlib.suppress(FileNotFoundError):
            number = btrfs.subvolume_id(path)
            btrfs.delete_subvolume(self._machines, machine)
            btrfs.forget_limit(self.pool, number)

    def machines(self) -> list[str]:
        """The ids of every machine that has a disk."""
        if not self._machines.is_dir():
            return []
        return sorted(entry.name for entry in self._machines.iterdir() if is_id(entry.name))

    def _grow_file(self, size_bytes: int) -> None:
        if not self._file.exists():
            self._file.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._file.with_name(f"{self._file.name}.new")
            with open(fresh, "wb", opener=_private) as file:
                file.truncate(size_bytes)
            subprocess.run(["mkfs.btrfs", "--quiet", "--force", "--label", "boxkeep", fresh], check=True)
            fresh.rename(self._file)
        if self._file.stat().st_size < size_bytes:
            os.truncate(self._file, size_bytes)

    def _loop_devices(self) -> Iterator[str]:
        return (entry.source for entry in mounts() if entry.target == str(self.pool))


def make_directories(root: Path, paths: tuple[str, ...]) -> None:
    """Have a true directory at each of `paths` below `root`, whatever a tenant left there, and follow nothing.

    What is no directory is removed on the way. New directories belong to root, mode 0755.
    """
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path in paths:
            os.close(_open_directory(top, path))
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


def _open_directory(top: int, path: str) -> int:
    directory = os.dup(top)
    for name in filter(None, path.split("/")):
        deeper = _open_or_make(directory, name)
        os.close(directory)
        directory = deeper
    return directory


def _open_or_make(directory: int, name: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY
    try:
        return syscalls.open_beneath(directory, name, flags)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)
        os.mkdir(name, 0o755, dir_fd=directory)
        return syscalls.open_beneath(directory, name, flags)


def _clear(directory: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        shutil.rmtree(name, dir_fd=directory)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
