"""The disk pool: one loop file with btrfs, in which trees are subvolumes with limits and copies are snapshots."""

import contextlib
import errno
import logging
import os
import subprocess
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

from boxkeep_server.node import btrfs, tars
from boxkeep_server.node.mountspace import mounts, unmount_below
from boxkeep_server.node.pool_file import PoolFile
from boxkeep_server.node.program_streams import input_of, output_of
from boxkeep_server.node.volumes import HALF, Receiver, StreamForm

_log = logging.getLogger(__name__)

# What is freed stays the pool's: given back to the host it might be gone when it is wanted again.
OPTIONS: Final = "loop,noatime,nodiscard,compress=zstd:1,nosuid,nodev"
_PROBE: Final = ".probe"
_PROBE_BYTES: Final = 8 << 20
_PROBE_EVERY_S: Final = 0.05
_COUNTED_WITHIN_S: Final = 10.0


class BtrfsPool:
    """The pool at `mount`, kept in `file`. See `volumes.Volume`.

    It grows ahead of what is written, so that there are `ahead_bytes` left until it has `most_bytes`; it never shrinks.
    """

    form: StreamForm = "btrfs"

    def __init__(self, file: Path, mount: Path, most_bytes: int, ahead_bytes: int) -> None:
        self._file = PoolFile(file, most_bytes)
        self._ahead_bytes = ahead_bytes
        self.mount = mount

    def open(self) -> None:
        """See `Volume.open`."""
        if not self._file.path.exists():
            self._make_file()
        self._file.fill()
        self.mount.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not any(entry.target == str(self.mount) for entry in mounts()):
            subprocess.run(["mount", "-t", "btrfs", "-o", OPTIONS, self._file.path, self.mount], check=True)
        self.mount.chmod(0o700)
        self._take_all()
        self.make_room()
        btrfs.enable_quota(self.mount)
        btrfs.count_large_trees_too(self.mount)

    def close(self) -> None:
        """See `Volume.close`; the loop device goes with it."""
        unmount_below(self.mount)

    def create(self, path: Path) -> None:
        """See `Trees.create`."""
        btrfs.create_subvolume(path.parent, path.name)

    def copy(self, origin: Path, path: Path) -> None:
        """See `Trees.copy`."""
        btrfs.create_snapshot(origin, path.parent, path.name)

    def share(self, origin: Path, path: Path) -> None:
        """See `Trees.share`."""
        self.copy(origin, path)

    def keep(self, origin: Path, path: Path) -> None:
        """See `Trees.keep`."""
        btrfs.create_snapshot(origin, path.parent, path.name, read_only=True)

    def settle(self, path: Path, name: str) -> None:
        """See `Trees.settle`."""
        btrfs.create_snapshot(path, path.parent, name, read_only=True)
        btrfs.delete_subvolume(path.parent, path.name)

    def remove(self, path: Path) -> None:
        """See `Trees.remove`. What was kept of its limit goes too."""
        with contextlib.suppress(FileNotFoundError):
            number = btrfs.subvolume_id(path)
            btrfs.delete_subvolume(path.parent, path.name)
            btrfs.forget_limit(self.mount, number)

    def clear(self, directory: Path) -> None:
        """See `Trees.clear`."""
        for left in directory.glob(f"{HALF}*"):
            self.remove(left)

    def is_whole(self, path: Path) -> bool:
        """See `Trees.is_whole`."""
        return path.is_dir() and btrfs.is_subvolume(path)

    def size(self, path: Path) -> int:
        """See `Trees.size`."""
        return btrfs.referenced(path)

    def sent(self, tree: Path) -> AsyncGenerator[bytes, None]:
        """See `Streams.sent`."""
        return output_of("btrfs", "send", "--quiet", tree)

    def receiving(self, form: StreamForm, directory: Path) -> AbstractAsyncContextManager[Receiver]:
        """See `Streams.receiving`."""
        if form == "tar":
            return tars.receiving(self, directory)
        return input_of("btrfs", "receive", "--quiet", "--chroot", "-e", directory)

    def limit(self, tree: Path, size_bytes: int) -> None:
        """See `Volume.limit`."""
        btrfs.limit(tree, size_bytes)

    def mend_limits(self) -> bool:
        """Whether the kernel knows what each tree uses; where it has lost count, and limits with it, it counts anew."""
        if btrfs.quota_counts(self.mount):
            return True
        btrfs.count_quota(self.mount)
        return False

    def limits_hold(self) -> bool:
        """Whether a tree here stops at its limit: tried with one that is written beyond it in two steps, since what is
        not on the device yet counts even where the rest does not."""
        deadline = time.monotonic() + _COUNTED_WITHIN_S
        while not self.mend_limits() and time.monotonic() < deadline:
            time.sleep(_PROBE_EVERY_S)
        probe = self.mount / _PROBE
        self.remove(probe)
        self.create(probe)
        try:
            self.limit(probe, _PROBE_BYTES)
            for name in ("first", "second"):
                (probe / name).write_bytes(os.urandom(_PROBE_BYTES * 3 // 4))
                self.flush()
        except OSError as error:
            if error.errno == errno.ENOSPC:
                return self.mend_limits()  # a full pool leaves no room to try it
            if error.errno != errno.EDQUOT:
                raise
            return True
        finally:
            self.remove(probe)
        return False

    def size_of_copy(self, tree: Path) -> int:
        """See `Volume.size_of_copy`: it shares all of it."""
        return 0

    def write_plainly(self, directory: Path) -> None:
        """See `Volume.write_plainly`."""
        btrfs.write_in_place(directory)

    def flush(self) -> None:
        """See `Volume.flush`."""
        btrfs.commit(self.mount)

    def free_bytes(self) -> int:
        """How much more can be written, without what it may grow by."""
        found = os.statvfs(self.mount)
        return max(0, found.f_bavail * found.f_frsize - btrfs.promised(self.mount))

    def make_room(self) -> None:
        """See `Volume.make_room`."""
        lacks = self._ahead_bytes - self.free_bytes()
        try:
            if lacks > 0 and (self._is_behind() or self._file.grow(lacks)):
                self._take_all()
        except (OSError, subprocess.CalledProcessError) as error:
            _log.warning("the pool does not grow now: %s", error)

    def _is_behind(self) -> bool:
        """Whether its file has grown and it has not."""
        found = os.statvfs(self.mount)
        return found.f_blocks * found.f_frsize < self._file.size

    def _make_file(self) -> None:
        path = self._file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.new")
        self._file.make(fresh, self._ahead_bytes)
        subprocess.run(["mkfs.btrfs", "--quiet", "--force", "--nodiscard", "--label", "boxkeep", fresh], check=True)
        fresh.rename(path)

    def _take_all(self) -> None:
        """Have the file system be as large as its file."""
        for device in self._loop_devices():
            subprocess.run(["losetup", "--set-capacity", device], check=True)
        btrfs.grow(self.mount)

    def _loop_devices(self) -> Iterator[str]:
        return (entry.source for entry in mounts() if entry.target == str(self.mount))
