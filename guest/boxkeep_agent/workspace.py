"""Which files of a workspace have changed meanwhile, whoever changed them."""

import os
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

MOST: Final = 50_000
LOOK_S: Final = 10.0
TOLD_MOST: Final = 500
TOLD_BYTES: Final = 15_000
_PASSED_OVER: Final = frozenset({".git", "node_modules", "__pycache__", ".venv"})


class Look(NamedTuple):
    """Time, size and inode of each file that was seen; `whole` where that is all of them."""

    files: dict[str, tuple[int, int, int]]
    whole: bool


def look(workspace: str, clock: Callable[[], float] = time.monotonic) -> Look:
    """What there is, of `MOST` files and directories at most, and no longer than `LOOK_S`."""
    files: dict[str, tuple[int, int, int]] = {}
    ends = clock() + LOOK_S
    for count, entry in enumerate(_entries(workspace)):
        if count == MOST or clock() > ends:
            return Look(files, whole=False)
        try:
            if not entry.is_dir(follow_symlinks=False):
                status = entry.stat(follow_symlinks=False)
                files[entry.path] = (status.st_mtime_ns, status.st_size, status.st_ino)
        except OSError:
            continue
    return Look(files, whole=True)


def changed(before: Look, after: Look) -> tuple[list[dict[str, str]], bool]:
    """What has come, gone and changed between two looks, by path; and whether there was more than is told.

    What one of two looks has not seen tells nothing where that look was not whole.
    """
    whole = before.whole and after.whole
    old, new = before.files, after.files
    seen = old.keys() | new.keys() if whole else old.keys() & new.keys()
    differ = sorted(path for path in seen if old.get(path) != new.get(path))
    told: list[dict[str, str]] = []
    left = TOLD_BYTES
    for path in differ[:TOLD_MOST]:
        left -= len(os.fsencode(path)) + 32
        if left < 0:
            break
        told.append({"path": path.encode("utf-8", "replace").decode(), "change": _change(path, old, new)})
    return told, not whole or len(told) < len(differ)


def _change(path: str, old: dict[str, tuple[int, int, int]], new: dict[str, tuple[int, int, int]]) -> str:
    if path not in old:
        return "added"
    return "modified" if path in new else "removed"


def _entries(workspace: str) -> "Iterator[os.DirEntry[str]]":
    waiting = [workspace]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as listing:
                for entry in listing:
                    if entry.name not in _PASSED_OVER:
                        yield entry
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
        except OSError:
            continue
