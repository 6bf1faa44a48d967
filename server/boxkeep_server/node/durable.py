"""Small files that must survive: written beside, flushed, then linked or moved into their place as a whole."""

import os
from pathlib import Path


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
    """Write a file as a whole in place of what it was. Survives the death of this process, not of the host."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    _write(fresh, content, flush=False)
    fresh.replace(path)


def append(path: Path, content: bytes) -> None:
    """Add to the end of a file; on the device when this returns. Blocking."""
    fresh = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, content)
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


def _write(path: Path, content: bytes, *, flush: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, content)
        if flush:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
