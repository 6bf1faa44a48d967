"""Disks in a plain directory of the host's file system, for hosts without btrfs or loop devices: copies are copies."""

import contextlib
import errno
import logging
import os
import subprocess
import tempfile
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

from boxkeep_server.node import durable, syscalls, tars
from boxkeep_server.node.mountspace import mounts, unmount_below
from boxkeep_server.node.removal import remove_tree
from boxkeep_server.node.volumes import HALF, CannotReceive, Receiver, StreamForm

_log = logging.getLogger(__name__)

COPY_S: Final = 25.0
"""How long a copy may take. What a pause or a checkpoint copies in that time a claim copies back within its own."""
_SPARE_FILES: Final = 4096
_WORDS_MOST: Final = 500
_CP: Final = ("setpriv", "--pdeathsig", "KILL", "cp", "--archive", "--no-target-directory")
"""It ends with us: whoever comes after us removes what it has made, and it must not go on meanwhile."""
_COPY: Final = (*_CP, "--preserve=all,xattr", "--reflink=auto")
_SHARE: Final = (*_CP, "--link")
_FLAGS: Final = syscalls.MS_BIND | syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOATIME


class PlainDirectory:
    """The directory `place`, seen at `mount`. See `volumes.Volume`.

    A tree under way has a name of its own until it is whole, and one that goes has it again before anything of it goes.
    Where the file system shares what copies have in common (XFS, btrfs) a copy takes no more time and space than its
    files' names; elsewhere it is all written again.
    """

    form: StreamForm = "tar"

    def __init__(self, place: Path, mount: Path, copy_s: float = COPY_S) -> None:
        self._place = place
        self._copy_s = copy_s
        self._shares = False
        self.mount = mount

    def open(self) -> None:
        """See `Volume.open`."""
        for directory in (self._place, self.mount):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._place.chmod(0o700)
        if not any(entry.target == str(self.mount) for entry in mounts()):
            syscalls.mount(self._place, self.mount, None, syscalls.MS_BIND)
        syscalls.mount(None, self.mount, None, syscalls.MS_REMOUNT | _FLAGS)
        self._shares = shares_copies(self.mount)

    def close(self) -> None:
        """See `Volume.close`."""
        unmount_below(self.mount)

    def create(self, path: Path) -> None:
        """See `Trees.create`."""
        path.mkdir(mode=0o755)

    def copy(self, origin: Path, path: Path) -> None:
        """See `Trees.copy`."""
        self._copy(_COPY, origin, path)

    def share(self, origin: Path, path: Path) -> None:
        """See `Trees.share`: by links to the same files."""
        self._copy(_SHARE, origin, path)

    def keep(self, origin: Path, path: Path) -> None:
        """See `Trees.keep`."""
        self._copy(_COPY, origin, path)
        self.flush()

    def settle(self, path: Path, name: str) -> None:
        """See `Trees.settle`."""
        self.flush()
        path.rename(path.with_name(name))
        durable.flush_directory(path.parent)

    def remove(self, path: Path) -> None:
        """See `Trees.remove`."""
        half = _half(path)
        remove_tree(half)
        if path.exists():
            path.rename(half)
            remove_tree(half)

    def clear(self, directory: Path) -> None:
        """See `Trees.clear`."""
        for left in directory.glob(f"{HALF}*"):
            remove_tree(left)

    def is_whole(self, path: Path) -> bool:
        """See `Trees.is_whole`."""
        return path.is_dir() and not path.is_symlink()

    def size(self, path: Path) -> int:
        """See `Trees.size`."""
        said = subprocess.run(["du", "--summarize", "--block-size=1", path], capture_output=True, check=False).stdout
        return int(said.split()[0]) if said else 0

    def sent(self, tree: Path) -> AsyncGenerator[bytes, None]:
        """See `Streams.sent`."""
        return tars.sent(tree)

    def receiving(self, form: StreamForm, directory: Path) -> AbstractAsyncContextManager[Receiver]:
        """See `Streams.receiving`."""
        if form != self.form:
            raise CannotReceive(f"it is a stream of {form}, which a node whose disks are a directory cannot take in")
        return tars.receiving(self, directory)

    def limit(self, tree: Path, size_bytes: int) -> None:
        """See `Volume.limit`: here nothing bounds a tree but the file system's own size."""

    def limits_hold(self) -> bool:
        """See `Volume.limits_hold`."""
        return False

    def mend_limits(self) -> bool:
        """See `Volume.mend_limits`: there are none that could be lost."""
        return True

    def size_of_copy(self, tree: Path) -> int:
        """See `Volume.size_of_copy`."""
        return 0 if self._shares else self.size(tree)

    def write_plainly(self, directory: Path) -> None:
        """See `Volume.write_plainly`: here everything is."""

    def flush(self) -> None:
        """See `Volume.flush`."""
        syscalls.sync_file_system(self.mount)

    def free_bytes(self) -> int:
        """See `Volume.free_bytes`: none where the file system takes hardly one more file."""
        found = os.statvfs(self.mount)
        out_of_files = found.f_files > 0 and found.f_favail < _SPARE_FILES
        return 0 if out_of_files else found.f_bavail * found.f_frsize

    def make_room(self) -> None:
        """See `Volume.make_room`: what the file system has is there."""

    def _copy(self, program: tuple[str, ...], origin: Path, path: Path) -> None:
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        half = _half(path)
        remove_tree(half)
        try:
            _run([*program, "--", origin, half], self._copy_s)
        except BaseException:
            remove_tree(half)
            raise
        half.rename(path)


def shares_copies(directory: Path) -> bool:
    """Whether copies share what they have in common with their origins in the file system of a directory: tried, and
    believed not to where it is too full to try."""
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=directory, prefix=HALF) as scratch:
        origin = Path(scratch) / "origin"
        origin.write_bytes(b"x" * 4096)
        tried: list[str | Path] = ["cp", "--reflink=always", origin, Path(scratch) / "copy"]
        return subprocess.run(tried, capture_output=True, check=False).returncode == 0
    return False


def _half(path: Path) -> Path:
    return path.with_name(f"{HALF}{path.name}")


def _run(argv: list[str | Path], within_s: float) -> None:
    """Run a copying program.

    Raises:
        OSError: it failed; with the errno of a full disk if that is why.
        TimeoutError
    """
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(argv, env=environment, capture_output=True, timeout=within_s, check=False)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"there is more on the disk than can be copied within {within_s:.0f} s") from None
    if done.returncode == 0:
        return
    words = os.fsdecode(done.stderr[-_WORDS_MOST:]).strip()
    _log.warning("not copied: %r", words)
    fault = words.rpartition(": ")[2]  # what comes before names files of the tenant's and of ours
    raise OSError(next((number for number in durable.FULL if os.strerror(number) == fault), errno.EIO), fault)
