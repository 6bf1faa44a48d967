"""The node's private mount namespace, kept by a file, so that a new node process finds everything mounted as it was."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from boxkeep_server.node import syscalls

_HERE = "/proc/thread-self/ns/mnt"


class MountSpace:
    """A mount namespace that outlives the processes in it, bound to `<run>/space/mnt`.

    The host's mounts come in and their removal follows; nothing mounted inside is seen outside.
    """

    def __init__(self, run: Path) -> None:
        self._directory = run / "space"
        self._file = self._directory / "mnt"
        # The file cannot be seen from inside, its name can.
        self._name = run / "space.name"
        self._lock = run / "space.lock"
        self._home: int | None = None

    def enter(self) -> None:
        """Move the calling thread, and every thread and process it starts later, into the space; made when absent.

        To be called before any other thread is started. May be repeated.
        """
        with self._locked():
            if self._inside():
                return
            home = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
            if not self._join():
                self._make(home)
            self._home = home

    def leave(self) -> None:
        """Move the calling thread back to where it came from, if it came from anywhere else."""
        if self._home is not None:
            syscalls.unshare(syscalls.CLONE_FS)
            syscalls.setns(self._home, syscalls.CLONE_NEWNS)
            os.close(self._home)
            self._home = None

    def exists(self) -> bool:
        """Whether the space is there. To be asked from outside."""
        return any(entry.target == str(self._file) for entry in mounts())

    def destroy(self) -> None:
        """Let the space go, to be called from outside; it ends with the last process in it. May be repeated."""
        with self._locked():
            for path in (self._file, self._directory):
                while any(entry.target == str(path) for entry in mounts()):
                    syscalls.unmount(path, syscalls.MNT_DETACH)
            self._name.unlink(missing_ok=True)

    def _inside(self) -> bool:
        """Whether the calling thread is in the space already, as what was started from inside is."""
        try:
            return self._name.read_text() == os.readlink(_HERE)  # noqa: PTH115 - not a path
        except FileNotFoundError:
            return False

    def _join(self) -> bool:
        try:
            kept = os.open(self._file, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            syscalls.unshare(syscalls.CLONE_FS)
            syscalls.setns(kept, syscalls.CLONE_NEWNS)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return False
        finally:
            os.close(kept)
        return True

    def _make(self, home: int) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file.touch(mode=0o600)
        if not any(entry.target == str(self._directory) for entry in mounts()):
            syscalls.mount(self._directory, self._directory, None, syscalls.MS_BIND)
        # A namespace file can be bound only where nothing carries the mount on into the namespace itself.
        syscalls.mount(None, self._directory, None, syscalls.MS_PRIVATE)
        made = self._kept(home)
        try:
            syscalls.setns(made, syscalls.CLONE_NEWNS)
            self._name.write_text(os.readlink(_HERE))  # noqa: PTH115
        finally:
            os.close(made)

    def _kept(self, home: int) -> int:
        """A new namespace, bound to the file; the calling thread is back at home.

        A namespace can be bound only in one with a lower number. Kernels from 6.18 on number them by processor, so that
        within a container what is made on another processor than the container was may have a lower one: each is tried.
        """
        allowed = os.sched_getaffinity(0)
        try:
            for processor in sorted(allowed):
                os.sched_setaffinity(0, {processor})
                made = _unshared()
                syscalls.setns(home, syscalls.CLONE_NEWNS)
                if self._bind(made):
                    return made
                os.close(made)
        finally:
            os.sched_setaffinity(0, allowed)
        raise OSError(errno.EINVAL, f"no mount namespace can be kept at {self._file}")

    def _bind(self, made: int) -> bool:
        try:
            syscalls.mount(f"/proc/self/fd/{made}", self._file, None, syscalls.MS_BIND)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return False
        return True

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with self._lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _unshared() -> int:
    """A new mount namespace, which the calling thread is in."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    # Slave: the host's unmounts arrive. Shared: ours reach the short-lived namespaces that runtimes start from.
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SHARED)
    return os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)


@dataclass(frozen=True)
class Mounted:
    """One line of the mount table."""

    target: str
    fstype: str
    source: str


def mounts(table: Path = Path("/proc/thread-self/mountinfo")) -> list[Mounted]:
    """The mounts that the calling thread sees, in order of mounting."""
    found = []
    for line in table.read_text(errors="surrogateescape").splitlines():
        fields = line.split(" ")
        dash = fields.index("-", 6)
        found.append(Mounted(_plain(fields[4]), fields[dash + 1], _plain(fields[dash + 2])))
    return found


def unmount_below(directory: Path) -> None:
    """Unmount everything at and below `directory`, latest first. May be repeated."""
    inside = f"{directory}/"
    for entry in reversed(mounts()):
        if entry.target == str(directory) or entry.target.startswith(inside):
            syscalls.unmount(entry.target, syscalls.MNT_DETACH)


def _plain(field: str) -> str:
    for escape, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(escape, character)
    return field
