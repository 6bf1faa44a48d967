"""The last output of a dead machine's unfinished commands, read from its disk without trusting anything on it."""

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boxkeep_server.model.ids import is_id
from boxkeep_server.node import syscalls

TAIL_BYTES: Final = 64 * 1024
_RECORD_BYTES: Final = 512 * 1024
_LISTED: Final = 20_000
_OPENED: Final = 2_048
_TOLD: Final = 256


@dataclass(frozen=True)
class Tail:
    """The last bytes that one command wrote, at most 64 KiB of each stream."""

    stdout: bytes
    stderr: bytes


def read_tails(log: Path) -> dict[str, Tail]:
    """The tails of the commands that the guest's records in `log` call running, or that it had no time to write one of.

    The latest 256 of them.

    Everything in `log` may be the tenant's making: only regular files beneath it are read, through no symlink.
    """
    try:
        top = os.open(log, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return {}
    found: dict[str, Tail] = {}
    try:
        for name in _latest(top):
            if _is_unfinished(top, name):
                found[name] = Tail(_end(top, f"{name}/stdout"), _end(top, f"{name}/stderr"))
            if len(found) == _TOLD:
                break
    finally:
        os.close(top)
    return found


def _latest(top: int) -> list[str]:
    return [name for _, name in sorted(_dated(top), reverse=True)[:_OPENED]]


def _dated(top: int) -> Iterator[tuple[float, str]]:
    with os.scandir(top) as entries:
        for _, entry in zip(range(_LISTED), entries, strict=False):
            if is_id(entry.name) and entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    yield entry.stat(follow_symlinks=False).st_mtime, entry.name


def _is_unfinished(top: int, name: str) -> bool:
    text = _end(top, f"{name}/record.json", _RECORD_BYTES)
    if not text:
        return True
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and record.get("state") == "running"


def _end(top: int, path: str, most: int = TAIL_BYTES) -> bytes:
    """The last bytes of a regular file, nothing where there is none."""
    try:
        file = syscalls.open_beneath(top, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return b""
    try:
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode):
            return b""
        return os.pread(file, most, max(0, about.st_size - most))
    except OSError:
        return b""
    finally:
        os.close(file)
