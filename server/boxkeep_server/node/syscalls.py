"""The system calls that Python's standard library lacks: namespaces, the mount API, openat2, subreaping."""

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)

# The newer calls carry one number on every architecture.
_OPEN_TREE: Final = 428
_MOVE_MOUNT: Final = 429
_OPENAT2: Final = 437
_MOUNT_SETATTR: Final = 442

CLONE_FS: Final = 0x200
CLONE_NEWNS: Final = 0x20000
CLONE_NEWUTS: Final = 0x4000000
CLONE_NEWNET: Final = 0x40000000

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_NOATIME: Final = 1024
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19
MS_SHARED: Final = 1 << 20
MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8

RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08

_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_OPEN_TREE_CLONE: Final = 1
_MOVE_MOUNT_F_EMPTY_PATH: Final = 4
_MOUNT_ATTR_IDMAP: Final = 0x00100000
_PR_GET_SECUREBITS: Final = 27
_PR_SET_SECUREBITS: Final = 28
_PR_SET_CHILD_SUBREAPER: Final = 36
_SECBIT_NO_SETUID_FIXUP: Final = 4


def _checked(result: int, *about: object) -> int:
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{os.strerror(errno)} ({' '.join(map(str, about))})")
    return result


def unshare(flags: int) -> None:
    """Give the calling thread namespaces (or an fs structure) of its own."""
    _checked(_libc.unshare(flags), "unshare", hex(flags))


def setns(descriptor: int, kind: int) -> None:
    """Move the calling thread into the namespace behind `descriptor`."""
    _checked(_libc.setns(descriptor, kind), "setns", hex(kind))


@contextlib.contextmanager
def inside(namespace: Path, kind: int) -> Iterator[None]:
    """Let the calling thread be in another network or UTS namespace for a while."""
    own = {CLONE_NEWNET: "net", CLONE_NEWUTS: "uts"}[kind]
    with open(f"/proc/thread-self/ns/{own}", "rb") as home, namespace.open("rb") as away:  # noqa: PTH123
        setns(away.fileno(), kind)
        try:
            yield
        finally:
            setns(home.fileno(), kind)


def mount(
    source: str | Path | None, target: str | Path, fstype: str | None, flags: int, data: str | None = None
) -> None:
    """mount(2)."""
    _checked(
        _libc.mount(_bytes(source), _bytes(target), _bytes(fstype), ctypes.c_ulong(flags), _bytes(data)),
        "mount",
        source,
        target,
        data,
    )


def unmount(target: str | Path, flags: int = 0) -> None:
    """umount2(2), never through a symlink."""
    _checked(_libc.umount2(_bytes(target), flags | UMOUNT_NOFOLLOW), "umount", target)


def clone_tree(path: str | Path) -> int:
    """A detached copy of the mount at `path` alone, as a descriptor."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
    return _checked(_libc.syscall(_OPEN_TREE, _AT_FDCWD, _bytes(path), flags), "open_tree", path)


def map_ids(tree: int, user_namespace: int) -> None:
    """Shift the owners that a detached mount shows by the mapping of a user namespace."""
    attributes = struct.pack("=QQQQ", _MOUNT_ATTR_IDMAP, 0, 0, user_namespace)
    _checked(
        _libc.syscall(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, attributes, len(attributes)), "mount_setattr", "idmap"
    )


def attach_tree(tree: int, target: str | Path) -> None:
    """Attach a detached mount at `target`."""
    _checked(
        _libc.syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, _bytes(target), _MOVE_MOUNT_F_EMPTY_PATH),
        "move_mount",
        target,
    )


def open_beneath(directory: int, path: str, flags: int, mode: int = 0) -> int:
    """openat2(2) that stays beneath `directory`, follows no symlink and crosses no mount.

    Raises:
        OSError: ELOOP or EXDEV where the path would have led elsewhere, else what open(2) raises.
    """
    how = struct.pack(
        "=QQQ",
        flags | os.O_CLOEXEC,
        mode,
        RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
    )
    return _checked(_libc.syscall(_OPENAT2, directory, _bytes(path), how, len(how)), "openat2", path)


def sync_file_system(path: str | Path) -> None:
    """syncfs(2): all that was written to the file system of a directory is on its device when this returns."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _checked(_libc.syncfs(descriptor), "syncfs", path)
    finally:
        os.close(descriptor)


def allocate(descriptor: int, offset: int, length: int) -> None:
    """Have the file system set room aside for a stretch of a file, which is extended to hold it; what is there stays.

    Raises:
        OSError: ENOSPC, with the file perhaps grown by some of it, and EOPNOTSUPP where the file system cannot.
    """
    call = _libc.fallocate
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    _checked(call(descriptor, 0, offset, length), "fallocate")


def become_subreaper() -> None:
    """Make this process the parent of what its descendants orphan."""
    _checked(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl", "subreaper")


@contextlib.contextmanager
def creating_as(identity: int) -> Iterator[None]:
    """Let the calling thread create files as uid and gid `identity`, with all its capabilities kept."""
    bits = _checked(_libc.prctl(_PR_GET_SECUREBITS, 0, 0, 0, 0), "prctl", "securebits")
    _checked(_libc.prctl(_PR_SET_SECUREBITS, bits | _SECBIT_NO_SETUID_FIXUP, 0, 0, 0), "prctl", "securebits")
    _libc.setfsgid(identity)
    _libc.setfsuid(identity)
    try:
        yield
    finally:
        _libc.setfsuid(os.geteuid())
        _libc.setfsgid(os.getegid())
        _checked(_libc.prctl(_PR_SET_SECUREBITS, bits, 0, 0, 0), "prctl", "securebits")


def set_hostname(name: str) -> None:
    """Name the UTS namespace of the calling thread."""
    text = os.fsencode(name)
    _checked(_libc.sethostname(text, len(text)), "sethostname")


def _bytes(text: str | Path | None) -> bytes | None:
    return None if text is None else os.fsencode(text)
