"""Which files of a workspace have changed meanwhile, whoever changed them."""

import os
from collections.abc import Iterator
from typing import Final

FILES_MOST: Final = 50_000
TOLD_MOST: Final = 500
TOLD_BYTES: Final = 15_000
_PASSED_OVER: Final = frozenset({".git", "node_modules", "__pycache__", ".venv"})

Look = dict[str, tuple[int, int, int]]


def look(workspace: str) -> Look:
    """Time, size and inode of each file, of so many at most."""
    found: Look = {}
    for path in _files(workspace):
        try:
            status = os.lstat(path)
        except OSError:
            continue
        found[path] = (status.st_mtime_ns, status.st_size, status.st_ino)
        if len(found) == FILES_MOST:
            break
    return found


def changed(before: Look, after: Look) -> tuple[list[dict[str, str]], bool]:
    """What has come, gone and changed between two looks, by path; and whether there was more than is told."""
    differ = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    told: list[dict[str, str]] = []
    left = TOLD_BYTES
    for path in differ[:TOLD_MOST]:
        left -= len(os.fsencode(path)) + 32
        if left < 0:
            break
        told.append({"path": path.encode("utf-8", "replace").decode(), "change": _change(path, before, after)})
    return told, len(told) < len(differ) or FILES_MOST in (len(before), len(after))


def _change(path: str, before: Look, after: Look) -> str:
    if path not in before:
        return "added"
    return "modified" if path in after else "removed"


def _files(workspace: str) -> Iterator[str]:
    for directory, names, files in os.walk(workspace):
        names[:] = sorted(name for name in names if name not in _PASSED_OVER)
        yield from (f"{directory}/{name}" for name in sorted(files))
