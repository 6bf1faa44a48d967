"""Removes a file or a whole tree without ever following a symlink out of it, however deep it is."""

import os
import stat

from boxkeep_guest.errors import Refused, refusal
from boxkeep_guest.files import shown

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(path: bytes, recursive: bool) -> None:
    """Remove what is at `path`; a directory that is not empty only if `recursive`. Raises Refused."""
    path = path.rstrip(b"/")
    if not path:
        raise Refused("not_permitted", "The root directory cannot be removed")
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)  # noqa: PTH108
        elif recursive:
            _remove_tree(path)
        else:
            os.rmdir(path)  # noqa: PTH106
    except OSError as error:
        raise refusal(error, shown(path)) from error


def _remove_tree(path: bytes) -> None:
    """Go down by name from one open directory to the next, emptying each, and remove them on the way up."""
    here = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # noqa: PTH120
    names = [os.path.basename(path)]  # noqa: PTH119
    try:
        here = _step(here, names[0])
        while names:
            inner = _empty(here)
            if inner is not None:
                here = _step(here, inner)
                names.append(inner)
            else:
                here = _step(here, b"..")
                os.rmdir(names.pop(), dir_fd=here)
    finally:
        os.close(here)


def _step(directory: int, name: bytes) -> int:
    reached = os.open(name, _OPEN_DIRECTORY, dir_fd=directory)
    os.close(directory)
    return reached


def _empty(directory: int) -> bytes | None:
    """Remove everything in an open directory but directories; the name of one of those, or None when it is empty."""
    while True:
        removed = False
        with os.scandir(directory) as found:
            for item in found:
                if item.is_dir(follow_symlinks=False):
                    return os.fsencode(item.name)
                os.unlink(item.name, dir_fd=directory)
                removed = True
        if not removed:
            return None
