"""Small files that must survive: written beside, flushed, then linked or moved into their place as a whole."""

import errno
import os
from pathlib import Path
from typing import Final

FULL: Final = (errno.ENOSPC, errno.EDQUOT)
"""What is wrong where there is no room."""
_BLOCK: Final = 512
"""The unit of st_blocks."""


def create(path: Path, content: bytes) -> None:
    """Write a file that must not be there yet; it and its name are on the device when this returns. Blocking.

    Raises:
        FileExistsError: somebody was first.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    _write(fresh, content, flush=True)
    try:
        path.hardlink_to(fresh)
    finally:
        fresh.unlink()
    flush_directory(path.parent)


def replace(path: Path, content: bytes) -> None:
    """Write a file as a whole in place of what it was. Survives the death of this process, not of the host.

    What is JSON can be changed on a full disk too, as long as it fits where it lies.

    Raises:
        OSError: it is as it was.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        _write(fresh, content, flush=False)
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        if error.errno not in FULL or not _write_over(path, content):
            raise


def append(path: Path, content: bytes) -> None:
    """Add to the end of a file; on the device when this returns. Blocking."""
    fresh = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        _write_all(descriptor, content)
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
    if fresh:
        flush_directory(path.parent)


def flush_directory(directory: Path) -> None:
    """Have the names in a directory on the device. Blocking."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def clear_unfinished(directory: Path) -> None:
    """Remove what a process that was killed while writing has left in a directory."""
    for path in directory.glob(".*.new"):
        path.unlink(missing_ok=True)


def _write_over(path: Path, content: bytes) -> bool:
    """Write a file where it lies, by one call that no kill divides, with spaces to its old end; whether it fits."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        found = os.fstat(descriptor)
        fits = len(content) <= found.st_blocks * _BLOCK
        return fits and os.pwrite(descriptor, content.ljust(found.st_size), 0) >= len(content)
    finally:
        os.close(descriptor)


def _write(path: Path, content: bytes, *, flush: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        _write_all(descriptor, content)
        if flush:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, content: bytes) -> None:
    """A disk that runs full takes a part, and refuses the next."""
    while content:
        content = content[os.write(descriptor, content) :]
