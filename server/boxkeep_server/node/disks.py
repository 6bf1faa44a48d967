"""The disk pool: one loop file with btrfs, one subvolume with a limit for each machine."""

import contextlib
import errno
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from boxkeep_server.model.ids import is_id
from boxkeep_server.node import btrfs
from boxkeep_server.node.mountspace import mounts, unmount_below

OPTIONS: Final = "loop,noatime,discard=async,compress=zstd:1,nosuid,nodev"
PARTS: Final = ("upper", "work", "log")
_PROBE: Final = ".probe"
_PROBE_BYTES: Final = 8 << 20
_PROBE_EVERY_S: Final = 0.05
_COUNTED_WITHIN_S: Final = 10.0


class Disks:
    """The pool at `mount`, kept in `file`. To be used from inside the mount space; every call is blocking.

    A machine's disk is the subvolume `machines/<id>` with the directories of `PARTS`. Files in it carry the owners
    that the machine sees, whatever range of uids it runs in, so a disk may move between isolations and nodes.
    """

    def __init__(self, file: Path, mount: Path) -> None:
        self._file = file
        self.pool = mount
        self.images = mount / "images"
        self.snapshots = mount / "snapshots"
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
        btrfs.count_large_trees_too(self.pool)
        for directory in (self.images, self.snapshots, self._machines):
            directory.mkdir(mode=0o700, exist_ok=True)

    def mend_limits(self) -> bool:
        """Whether the kernel knows what each disk uses; where it has lost count, and limits with it, it counts anew."""
        if btrfs.quota_counts(self.pool):
            return True
        btrfs.count_quota(self.pool)
        return False

    def limits_hold(self) -> bool:
        """Whether a disk here stops at its limit: tried with one that is written beyond it in two steps, since what is
        not on the device yet counts even where the rest does not."""
        deadline = time.monotonic() + _COUNTED_WITHIN_S
        while not self.mend_limits() and time.monotonic() < deadline:
            time.sleep(_PROBE_EVERY_S)
        with contextlib.suppress(FileNotFoundError):
            btrfs.delete_subvolume(self.pool, _PROBE)
        btrfs.create_subvolume(self.pool, _PROBE)
        try:
            btrfs.limit(self.pool / _PROBE, _PROBE_BYTES)
            for name in ("first", "second"):
                (self.pool / _PROBE / name).write_bytes(os.urandom(_PROBE_BYTES * 3 // 4))
                btrfs.commit(self.pool)
        except OSError as error:
            if error.errno != errno.EDQUOT:
                raise
            return True
        finally:
            number = btrfs.subvolume_id(self.pool / _PROBE)
            btrfs.delete_subvolume(self.pool, _PROBE)
            btrfs.forget_limit(self.pool, number)
        return False

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

    def copy(self, origin: Path, machine: str, limit_bytes: int) -> Path:
        """A disk that begins as `origin`, another machine's or one that was kept. `work` is emptied, as overlayfs asks.

        Exact when the origin's machine is gone or frozen, else as a crash would leave it.

        Raises:
            FileExistsError: the machine has one.
        """
        path = self.path(machine)
        btrfs.create_snapshot(origin, self._machines, machine)
        btrfs.limit(path, limit_bytes)
        shutil.rmtree(path / "work")
        (path / "work").mkdir(mode=0o755)
        return path

    def keep(self, machine: str, directory: Path, name: str) -> None:
        """Keep a machine's disk as it is now, read-only, as `directory/name` in the pool; on the device then."""
        btrfs.create_snapshot(self.path(machine), directory, name, read_only=True)

    def delete(self, machine: str) -> None:
        """Remove a machine's disk and what was kept of its limit. May be repeated."""
        self._remove(self.path(machine))

    @staticmethod
    def referenced(disk: Path) -> int:
        """How many bytes a disk refers to, shared with others or not."""
        return btrfs.referenced(disk)

    def flush(self) -> None:
        """Have what was written until now on the device: what is kept next has less to wait for."""
        btrfs.commit(self.pool)

    def forget(self, directory: Path, name: str) -> None:
        """Remove a disk that was kept. May be repeated."""
        self._remove(directory / name)

    def free_bytes(self) -> int:
        """How much more can be written: by the pool, and by the file system that its file grows in."""
        found = (os.statvfs(path) for path in (self.pool, self._file.parent))
        return min(one.f_bavail * one.f_frsize for one in found)

    def _remove(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            number = btrfs.subvolume_id(path)
            btrfs.delete_subvolume(path.parent, path.name)
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


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
