"""The few ioctls of btrfs that disks need: subvolumes, snapshots, their limits and whether they hold, and growing."""

import contextlib
import errno
import fcntl
import os
import struct
import uuid
from pathlib import Path
from typing import Final

# Numbers and layouts: linux/btrfs.h. _IOW(0x94, n, 4096-byte arguments) and kin.
_RESIZE: Final = 0x50009403
_SNAP_DESTROY: Final = 0x5000940F
_INO_LOOKUP: Final = 0xD0009412
_SNAP_CREATE_V2: Final = 0x50009417
_SUBVOL_CREATE_V2: Final = 0x50009418
_QUOTA_CTL: Final = 0xC0109428
_QGROUP_CREATE: Final = 0x4010942A
_QGROUP_LIMIT: Final = 0x8030942B
_QUOTA_RESCAN: Final = 0x4040942C
_FS_INFO: Final = 0x8400941F
_SYNC: Final = 0x9408

# Of linux/fs.h.
_GET_FLAGS: Final = 0x80086601
_SET_FLAGS: Final = 0x40086602
_NO_COPY_ON_WRITE: Final = 0x00800000

_QUOTA_ENABLE: Final = 1
_LIMIT_MAX_REFERENCED: Final = 1
_READ_ONLY: Final = 2
_ROOT_INODE: Final = 256
_FSID: Final = slice(16, 32)
_SYSFS: Final = Path("/sys/fs/btrfs")
_DEEPEST: Final = "8"


def create_subvolume(parent: Path, name: str) -> None:
    """A new, empty subvolume."""
    with _Directory(parent) as directory:
        fcntl.ioctl(directory, _SUBVOL_CREATE_V2, _arguments_v2(0, name))


def create_snapshot(source: Path, parent: Path, name: str, *, read_only: bool = False) -> None:
    """A snapshot of `source`; crash-consistent when `source` is being written."""
    with _Directory(parent) as directory, _Directory(source) as origin:
        fcntl.ioctl(directory, _SNAP_CREATE_V2, _arguments_v2(origin, name, _READ_ONLY if read_only else 0))


def delete_subvolume(parent: Path, name: str) -> None:
    """Delete a subvolume; its space comes back in the background."""
    with _Directory(parent) as directory:
        fcntl.ioctl(directory, _SNAP_DESTROY, _arguments(name))


def is_subvolume(path: Path) -> bool:
    """Whether `path` is the root of a subvolume."""
    return path.lstat().st_ino == _ROOT_INODE


def subvolume_id(path: Path) -> int:
    """The id of the subvolume that `path` lies in."""
    argument = bytearray(struct.pack("=QQ4080s", 0, _ROOT_INODE, b""))
    with _Directory(path) as directory:
        fcntl.ioctl(directory, _INO_LOOKUP, argument)
    found: int = struct.unpack_from("=Q", argument)[0]
    return found


def write_in_place(directory: Path) -> None:
    """Have files that are made in a directory from now on written as they are: not compressed, not elsewhere at each
    write. The kernel then keeps no sums of them."""
    with _Directory(directory) as descriptor:
        flags = bytearray(8)
        fcntl.ioctl(descriptor, _GET_FLAGS, flags)
        (before,) = struct.unpack_from("=I", flags)
        fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("=Q", before | _NO_COPY_ON_WRITE))


def referenced(subvolume: Path) -> int:
    """How many bytes a subvolume refers to, shared or not; 0 where the kernel does not say."""
    with contextlib.suppress(FileNotFoundError):
        return int((sysfs(subvolume) / f"qgroups/0_{subvolume_id(subvolume)}/referenced").read_text())
    return 0


def enable_quota(filesystem: Path) -> None:
    """Turn quota groups on. May be repeated."""
    with _Directory(filesystem) as directory:
        try:
            fcntl.ioctl(directory, _QUOTA_CTL, bytearray(struct.pack("=QQ", _QUOTA_ENABLE, 0)))
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise


def quota_counts(filesystem: Path) -> bool:
    """Whether quota groups know what is used. Where they do not the kernel has stopped to count, and no limit holds,
    until all is counted anew; kernels before 5.9 do not say."""
    with contextlib.suppress(FileNotFoundError):
        return (sysfs(filesystem) / "qgroups/inconsistent").read_text().strip() == "0"
    return True


def count_quota(filesystem: Path) -> None:
    """Begin to count all that quota groups hold, unless that is under way."""
    with _Directory(filesystem) as directory:
        try:
            fcntl.ioctl(directory, _QUOTA_RESCAN, bytes(64))
        except OSError as error:
            if error.errno != errno.EINPROGRESS:
                raise


def count_large_trees_too(filesystem: Path) -> None:
    """Have the kernel go on counting when a large subvolume is deleted; since 6.1 it would rather stop."""
    with contextlib.suppress(FileNotFoundError, PermissionError):
        (sysfs(filesystem) / "qgroups/drop_subtree_threshold").write_text(_DEEPEST)


def commit(filesystem: Path) -> None:
    """Have everything on the device, counted."""
    with _Directory(filesystem) as directory:
        fcntl.ioctl(directory, _SYNC)


def sysfs(filesystem: Path) -> Path:
    """Where the kernel tells of a file system."""
    told = bytearray(1024)
    with _Directory(filesystem) as directory:
        fcntl.ioctl(directory, _FS_INFO, told)
    return _SYSFS / str(uuid.UUID(bytes=bytes(told[_FSID])))


def promised(filesystem: Path) -> int:
    """Bytes that writers have been promised, and that statvfs takes for free until they are committed; 0 where the
    kernel's word cannot be had."""
    told = sysfs(filesystem) / "allocation" / "data"
    try:
        return sum(int((told / name).read_text()) for name in ("bytes_may_use", "bytes_reserved"))
    except OSError:
        return 0


def limit(subvolume: Path, size_bytes: int) -> None:
    """Let a subvolume reference at most `size_bytes`."""
    argument = struct.pack("=QQQQQQ", 0, _LIMIT_MAX_REFERENCED, size_bytes, 0, 0, 0)
    with _Directory(subvolume) as directory:
        fcntl.ioctl(directory, _QGROUP_LIMIT, argument)


def forget_limit(filesystem: Path, subvolume: int) -> bool:
    """Remove the quota group of a deleted subvolume; False while its space is still being freed."""
    with _Directory(filesystem) as directory:
        try:
            fcntl.ioctl(directory, _QGROUP_CREATE, struct.pack("=QQ", 0, subvolume))
        except OSError as error:
            if error.errno == errno.EBUSY:
                return False
            if error.errno not in (errno.ENOENT, errno.EINVAL, errno.ENOTCONN):
                raise
    return True


def grow(filesystem: Path) -> None:
    """Let the file system fill its device."""
    with _Directory(filesystem) as directory:
        fcntl.ioctl(directory, _RESIZE, _arguments("max"))


def _arguments(name: str) -> bytearray:
    return bytearray(struct.pack("=q4088s", 0, os.fsencode(name)))


def _arguments_v2(descriptor: int, name: str, flags: int = 0) -> bytearray:
    return bytearray(struct.pack("=qQQ4Q4040s", descriptor, 0, flags, 0, 0, 0, 0, os.fsencode(name)))


class _Directory:
    """A directory's descriptor for the length of a `with`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> int:
        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
