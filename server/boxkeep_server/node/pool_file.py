"""The file that a pool lies in, which has its room from the host's file system before anything is written there.

Else a host whose disk runs full, of its own doing or of a sandbox's, would have the pool's file system fail in the
middle of writing: btrfs goes read-only then, for all sandboxes at once, and what was not committed is lost.
"""

import errno
import logging
import os
from pathlib import Path
from typing import Final

from boxkeep_server.node import syscalls

_SPARE_BYTES: Final = 1 << 30
"""What is left to the host: for databases, logs, and whatever else it does."""
_STEP_BYTES: Final = 1 << 30
_GRAIN_BYTES: Final = 1 << 20
_NOT_HERE: Final = (errno.EOPNOTSUPP, errno.ENOSYS)

_log = logging.getLogger(__name__)


class PoolFile:
    """The file at `path`, of `most_bytes` in the end."""

    def __init__(self, path: Path, most_bytes: int) -> None:
        self.path = path
        self._most_bytes = most_bytes
        self._sets_aside = True

    @property
    def size(self) -> int:
        """How large it is, in bytes."""
        return self.path.stat().st_size

    def make(self, path: Path, size_bytes: int) -> None:
        """A new one beside it, with as much of this size as there is room for."""
        with open(path, "wb", opener=_private):
            pass
        self._extend(path, max(min(size_bytes, self._most_bytes, self._room()), _STEP_BYTES))

    def fill(self) -> None:
        """Have room set aside for all of it; one that was made larger than the room there is stays as it is."""
        holes = self.size - self.path.stat().st_blocks * 512
        if holes <= 0:
            return
        if holes > self._room():
            words = "%s wants %d MiB more than the host's disk has: if that runs full, the disks of all sandboxes fail"
            _log.warning(words, self.path, (holes - self._room()) >> 20)
            return
        self._set_aside(self.path, 0, self.size)

    def grow(self, by_bytes: int) -> bool:
        """Have it grow by some, in whole steps, as far as it may and the host has room; whether it has."""
        steps = -(-by_bytes // _STEP_BYTES) * _STEP_BYTES
        more = min(steps, self._most_bytes - self.size, self._room()) // _GRAIN_BYTES * _GRAIN_BYTES
        if more < _STEP_BYTES // 4:
            return False
        try:
            self._extend(self.path, self.size + more)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return False
        return True

    def _room(self) -> int:
        found = os.statvfs(self.path.parent)
        return max(0, found.f_bavail * found.f_frsize - _SPARE_BYTES)

    def _extend(self, path: Path, size_bytes: int) -> None:
        before = path.stat().st_size
        try:
            self._set_aside(path, before, size_bytes - before)
            os.truncate(path, size_bytes)
        except OSError:
            os.truncate(path, before)
            raise

    def _set_aside(self, path: Path, offset: int, length: int) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            syscalls.allocate(descriptor, offset, length)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
            if self._sets_aside:
                _log.warning("%s lies where no room can be set aside: it grows as it is written", path)
            self._sets_aside = False
        finally:
            os.close(descriptor)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
