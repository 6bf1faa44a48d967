"""Layers of images: what one has that its parent has not, packed into an archive and laid over the parent again.

An archive has the directory `tree`, with what is new or changed, and the file `removed`, with the paths that go from
the parent before that, each ended by a null byte.
"""

import contextlib
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from boxkeep_server.node import syscalls

TREE: Final = "tree"
REMOVED: Final = "removed"
_REMOVED_MOST: Final = 16 << 20
_OPAQUE: Final = "trusted.overlay.opaque"
_OVERLAYS: Final = "--xattrs-exclude=trusted.overlay.*"
_PACK: Final = ("tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", _OVERLAYS, "--sort=name", "-c")
_NO_TIMES: Final = "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime"
_UNPACK: Final = ("tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--zstd", "-x")
_LAY: Final = ("cp", "--archive", "--reflink=auto", "--remove-destination", "--no-target-directory")


class BadLayer(Exception):
    """An archive holds no layer."""


def make_layer(directory: Path) -> Path:
    """A layer that is empty; its `tree` is to be filled."""
    (directory / TREE).mkdir(mode=0o755, parents=True)
    (directory / REMOVED).touch()
    return directory / TREE


def settle(layer: Path, parent: Path) -> None:
    """Make a layer of what an overlay over `parent` has left in `tree` as its upper directory.

    What hides files of the parent there is named in `removed` instead, so that a layer is plain files.
    """
    gone = []
    root = os.fsencode(layer / TREE)
    for found, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = os.path.join(found, name)  # noqa: PTH118 - names may be any bytes
            inside = os.path.relpath(path, root)
            if _hides(path, os.path.join(os.fsencode(parent), inside)):  # noqa: PTH118
                gone.append(inside)
            if _is_whiteout(path):
                os.unlink(path)  # noqa: PTH108
    (layer / REMOVED).write_bytes(b"".join(path + b"\0" for path in sorted(gone)))


def _hides(path: bytes, below: bytes) -> bool:
    """Whether what the parent has at a place is not to be seen at all, rather than merged with or replaced."""
    try:
        was = os.lstat(below)
    except (FileNotFoundError, NotADirectoryError):
        return False
    is_directory = stat.S_ISDIR(os.lstat(path).st_mode)
    return _is_whiteout(path) or is_directory != stat.S_ISDIR(was.st_mode) or (is_directory and _is_opaque(path))


def _is_whiteout(path: bytes) -> bool:
    found = os.lstat(path)
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def _is_opaque(path: bytes) -> bool:
    with contextlib.suppress(OSError):
        return os.getxattr(path, _OPAQUE, follow_symlinks=False) == b"y"
    return False


def pack(layer: Path, archive: Path, *, alike: bool = False) -> None:
    """Pack a layer, on the device then. With `alike` the same files make the same archive whenever they were written:
    times are left out, and directories, which are as the parent has them.

    Raises:
        CalledProcessError
    """
    words: list[str | Path] = [TREE]
    if alike:
        found = (path for path in (layer / TREE).rglob("*") if path.is_symlink() or not path.is_dir())
        plain = sorted(str(path.relative_to(layer)) for path in found)
        words = ["--mtime=@0", "--owner=0", "--group=0", _NO_TIMES, *plain]
    compress = "--use-compress-program=zstd -3 -T0"
    subprocess.run([*_PACK, compress, "-f", archive, "-C", layer, REMOVED, *words], check=True, capture_output=True)
    with archive.open("rb") as file:
        os.fsync(file.fileno())


def unpack(archive: Path, directory: Path) -> None:
    """Unpack a layer into an empty directory.

    Raises:
        CalledProcessError: it is no archive, or there is no room.
        BadLayer
    """
    subprocess.run([*_UNPACK, "-C", directory, "-f", archive], check=True, capture_output=True)
    for name, is_right in ((TREE, stat.S_ISDIR), (REMOVED, stat.S_ISREG)):
        with contextlib.suppress(FileNotFoundError):
            if is_right((directory / name).lstat().st_mode):
                continue
        raise BadLayer(f"{archive.name} holds no {name} of a layer")


def lay(layer: Path, tree: Path) -> None:
    """Lay an unpacked layer over a tree, which is its parent's until then. No link that either has is followed.

    Raises:
        CalledProcessError: there is no room.
        BadLayer
    """
    with (layer / REMOVED).open("rb") as file:
        gone = file.read(_REMOVED_MOST)
    with _opened(tree) as root:
        for path in filter(None, gone.split(b"\0")):
            _remove(root, path)
    subprocess.run([*_LAY, layer / TREE, tree], check=True, capture_output=True)


def _remove(root: int, path: bytes) -> None:
    where, name = os.path.split(os.fsdecode(path))
    if name in ("", ".", ".."):
        raise BadLayer("A layer removes what has no name")
    try:
        parent = syscalls.open_beneath(root, where or ".", os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return
    except OSError as error:
        raise BadLayer("A layer removes what is not in its parent") from error
    try:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                shutil.rmtree(name, dir_fd=parent)
            else:
                os.unlink(name, dir_fd=parent)
    finally:
        os.close(parent)


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
