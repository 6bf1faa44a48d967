"""Files of the sandbox: functions that block, work on bytes paths, and never hang on a FIFO or device."""

import base64
import errno
import os
import stat
from collections.abc import Iterator
from typing import Any, BinaryIO

from boxkeep_guest.accounts import Account
from boxkeep_guest.errors import Refused, refusal

_OPEN = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
DEEPEST = 1000
_CHUNK = 1024 * 1024


def shown(path: bytes) -> str:
    """A path as messages show it."""
    return path.decode("utf-8", "replace")


def entry_of(path: bytes, status: os.stat_result, target: bytes | None = None) -> dict[str, Any]:
    """The wire's description of what is at `path`."""
    entry: dict[str, Any] = {
        "type": _type(status.st_mode),
        "size": status.st_size,
        "mode": stat.S_IMODE(status.st_mode),
        "modifiedAt": status.st_mtime_ns // 1_000_000,
        "uid": status.st_uid,
        "gid": status.st_gid,
    }
    entry |= named("name", path.rstrip(b"/").rpartition(b"/")[2] or b"/") | named("path", path)
    if target is not None:
        entry |= named("target", target)
    return entry


def _type(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "symlink" if stat.S_ISLNK(mode) else "other"


def named(field: str, name: bytes) -> dict[str, str]:
    """A name as the wire has it: text, or base64 under another field where it is not UTF-8."""
    try:
        return {field: name.decode("utf-8")}
    except UnicodeDecodeError:
        return {field + "Base64": base64.b64encode(name).decode("ascii")}


def describe(path: bytes) -> dict[str, Any]:
    """What is at `path` itself, a symlink not followed. Raises Refused."""
    try:
        status = os.lstat(path)
        target = os.readlink(path) if stat.S_ISLNK(status.st_mode) else None  # noqa: PTH115
    except OSError as error:
        raise refusal(error, shown(path)) from error
    return entry_of(path, status, target)


def listed(path: bytes) -> Iterator[dict[str, Any]]:
    """The entries of a directory, in the order of the directory. Raises Refused."""
    try:
        with os.scandir(path) as found:
            for item in found:
                entry = _listed_entry(item)
                if entry is not None:
                    yield entry
    except OSError as error:
        raise refusal(error, shown(path)) from error


def _listed_entry(item: "os.DirEntry[bytes]") -> dict[str, Any] | None:
    try:
        target = os.readlink(item.path) if item.is_symlink() else None  # noqa: PTH115
        return entry_of(item.path, item.stat(follow_symlinks=False), target)
    except OSError:  # gone since
        return None


def open_regular(path: bytes) -> tuple[int, dict[str, Any]]:
    """A regular file opened for reading, and its description. Raises Refused; opening anything else never waits."""
    try:
        file = os.open(path, os.O_RDONLY | _OPEN)
    except OSError as error:
        raise refusal(error, shown(path)) from error
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        os.close(file)
        raise _irregular(path, status.st_mode)
    return file, entry_of(path, status)


def unsized_content(file: int, path: bytes) -> bytes:
    """The beginning of a file that calls itself empty, at most 1 MiB: files of /proc and /sys do. Raises Refused."""
    found = b""
    try:
        while len(found) < _CHUNK and (data := os.pread(file, _CHUNK - len(found), len(found))):
            found += data
    except OSError as error:
        raise refusal(error, shown(path)) from error
    return found


def _irregular(path: bytes, mode: int) -> Refused:
    if stat.S_ISDIR(mode):
        return Refused("is_directory", f"{shown(path)} is a directory")
    return Refused("not_permitted", f"{shown(path)} is not a regular file")


class Replacement:
    """A file being written beside the place that it will take."""

    def __init__(self, path: bytes, mode: int | None, owner: Account | None, parents: bool, size: int | None) -> None:
        self._path = os.path.realpath(path)
        self._asked = path
        self._file: BinaryIO | None = None
        if path.endswith(b"/"):
            raise Refused("is_directory", f"{shown(path)} is the name of a directory")
        directory = os.path.dirname(self._path)  # noqa: PTH120
        if parents:
            make_directories(directory, 0o755, owner)
        old = self._old()
        self._temporary = directory.rstrip(b"/") + b"/.boxkeep-" + os.urandom(8).hex().encode()
        try:
            self._check_room(directory, size)
            file = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise refusal(error, shown(path)) from error
        self._file = os.fdopen(file, "wb", buffering=0)
        try:
            _dress(file, old, mode, owner)
        except OSError as error:
            self.discard()
            raise refusal(error, shown(path)) from error

    def _old(self) -> os.stat_result | None:
        try:
            old = os.lstat(self._path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise refusal(error, shown(self._asked)) from error
        if stat.S_ISLNK(old.st_mode):
            raise Refused("symlink", f"{shown(self._asked)} is a symlink that leads nowhere")
        if not stat.S_ISREG(old.st_mode):
            raise _irregular(self._asked, old.st_mode)
        return old

    def _check_room(self, directory: bytes, size: int | None) -> None:
        if size is None:
            return
        disk = os.statvfs(directory)
        if disk.f_blocks and size > disk.f_bavail * disk.f_frsize:
            raise Refused("no_space", f"{shown(self._asked)} does not fit: no space is left")

    def write(self, data: bytes) -> None:
        """Append `data`. Raises Refused."""
        assert self._file is not None
        try:
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise refusal(error, shown(self._asked)) from error

    def flush(self) -> None:
        """Have what is written so far on the device. Raises Refused."""
        assert self._file is not None
        try:
            os.fdatasync(self._file.fileno())
        except OSError as error:
            raise refusal(error, shown(self._asked)) from error

    def own(self, uid: int, gid: int) -> None:
        """Give the file to that user and group."""
        assert self._file is not None
        os.fchown(self._file.fileno(), uid, gid)

    def finish(self) -> dict[str, Any]:
        """Put the file into its place, durably; its description. Raises Refused."""
        assert self._file is not None
        try:
            os.fsync(self._file.fileno())
            os.rename(self._temporary, self._path)  # noqa: PTH104
            status = os.fstat(self._file.fileno())
            self._file.close()
            self._file = None
            sync_directory(os.path.dirname(self._path))  # noqa: PTH120
        except OSError as error:
            raise refusal(error, shown(self._asked)) from error
        return entry_of(self._asked, status)

    def discard(self) -> None:
        """Leave the old file as it was. After `finish` this does nothing."""
        if self._file is None:
            return
        self._file.close()
        self._file = None
        try:
            os.unlink(self._temporary)  # noqa: PTH108
        except OSError:
            return


def _dress(file: int, old: os.stat_result | None, mode: int | None, owner: Account | None) -> None:
    """Owner and mode: as asked, else as of the file that is replaced, else a plain file's."""
    if owner is not None:
        os.fchown(file, owner.uid, owner.gid)
    elif old is not None:
        os.fchown(file, old.st_uid, old.st_gid)
    if mode is None:
        mode = stat.S_IMODE(old.st_mode) if old is not None else 0o644
    os.fchmod(file, mode)


def sync_directory(path: bytes) -> None:
    """Make a directory's names durable."""
    file = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _OPEN)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def make_directories(path: bytes, mode: int, owner: Account | None) -> None:
    """Make `path` and what is missing above it. Raises Refused; that it is there already is fine."""
    missing = []
    while not os.path.isdir(path):  # noqa: PTH112
        missing.append(path)
        above = os.path.dirname(path)  # noqa: PTH120
        if above == path or len(missing) > DEEPEST:
            break
        path = above
    for directory in reversed(missing):
        _make(directory, mode, owner, there_is_fine=True)


def _make(path: bytes, mode: int, owner: Account | None, there_is_fine: bool) -> None:
    try:
        os.mkdir(path, mode)  # noqa: PTH102
    except FileExistsError as error:
        if there_is_fine and os.path.isdir(path):  # noqa: PTH112
            return
        raise _not_a_directory(path, error) from error
    except OSError as error:
        raise refusal(error, shown(path)) from error
    try:
        os.chmod(path, mode)  # noqa: PTH101 - the umask must not take from it
        if owner is not None:
            os.chown(path, owner.uid, owner.gid, follow_symlinks=False)
    except OSError as error:
        raise refusal(error, shown(path)) from error


def _not_a_directory(path: bytes, error: OSError) -> Refused:
    if os.path.isdir(path):  # noqa: PTH112
        return refusal(error, shown(path))
    return Refused("not_directory", f"{shown(path)} is there and is not a directory")


def make_directory(path: bytes, mode: int, parents: bool, owner: Account | None) -> dict[str, Any]:
    """Make one directory; with `parents` those above it too, and that it is there is fine. Raises Refused."""
    path = path.rstrip(b"/") or b"/"
    if parents:
        make_directories(os.path.dirname(path), 0o755, owner)  # noqa: PTH120
    _make(path, mode, owner, there_is_fine=parents)
    return describe(path)


def move(source: bytes, to: bytes, overwrite: bool) -> dict[str, Any]:
    """Rename; a regular file moves across file systems too. What is there stays unless `overwrite`. Raises Refused."""
    to = to.rstrip(b"/") or b"/"
    try:
        os.lstat(source)
    except OSError as error:
        raise refusal(error, shown(source)) from error
    if not overwrite and os.path.lexists(to):
        raise Refused("exists", f"{shown(to)} exists already")
    try:
        os.rename(source.rstrip(b"/") or b"/", to)  # noqa: PTH104
    except OSError as error:
        if error.errno == errno.EXDEV and stat.S_ISREG(os.lstat(source).st_mode):
            return _carry(source, to)
        raise refusal(error, shown(to)) from error
    return describe(to)


def _carry(source: bytes, to: bytes) -> dict[str, Any]:
    """Move a regular file to another file system."""
    file, _ = open_regular(source)
    try:
        status = os.fstat(file)
        copy = Replacement(to, stat.S_IMODE(status.st_mode), None, parents=False, size=status.st_size)
        try:
            while data := os.read(file, _CHUNK):
                copy.write(data)
            copy.own(status.st_uid, status.st_gid)
            entry = copy.finish()
        finally:
            copy.discard()
        os.unlink(source)  # noqa: PTH108
    except OSError as error:
        raise refusal(error, shown(source)) from error
    finally:
        os.close(file)
    return entry


def change_mode(path: bytes, mode: int) -> dict[str, Any]:
    """Set the mode of a file or directory. Raises Refused."""
    try:
        os.chmod(path, mode)  # noqa: PTH101
    except OSError as error:
        raise refusal(error, shown(path)) from error
    return describe(path)
