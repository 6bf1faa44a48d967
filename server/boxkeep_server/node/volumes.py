"""What disks, images and snapshots of a node lie on: trees of files as wholes, in a pool or in a plain directory."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final, Literal, Protocol

StreamForm = Literal["btrfs", "tar"]
"""What a tree looks like as a stream of bytes."""
DISK: Final = "disk"
"""What a tree is called that has come as a stream."""
ARRIVING: Final = ".arriving"
"""What it is called until all of it has come."""
HALF: Final = ".half-"
"""What the names of trees begin with that are being filled, or are going."""


class CannotReceive(Exception):
    """A tree comes in a form that this volume cannot take in; the sentence says which."""


class Receiver(Protocol):
    """Makes a tree of a stream that is written into it."""

    async def write(self, block: bytes) -> None:
        """Go on with the stream.

        Raises:
            StreamFailed: it could not be gone on with.
        """

    async def end(self) -> None:
        """All was written: wait until the tree is there.

        Raises:
            StreamFailed
        """


class Trees(Protocol):
    """Trees of files, each of them whole or not there under its name, whatever is killed meanwhile. Blocking.

    All of them raise OSError, with the errno of a full disk where that is the reason.
    """

    def create(self, path: Path) -> None:
        """A new, empty tree.

        Raises:
            FileExistsError
        """

    def copy(self, origin: Path, path: Path) -> None:
        """A tree of its own that begins as `origin`: exact when nothing writes there, else as a crash would leave it.

        Raises:
            FileExistsError
            TimeoutError: there is more of it than can be copied in time.
        """

    def share(self, origin: Path, path: Path) -> None:
        """The same of a tree that nobody writes into; where files of the copy are changed they are replaced by others.

        Raises:
            FileExistsError
        """

    def keep(self, origin: Path, path: Path) -> None:
        """A copy that nobody writes into; on the device when this returns.

        Raises:
            FileExistsError, TimeoutError: as `copy`.
        """

    def settle(self, path: Path, name: str) -> None:
        """Give a tree that was filled its name beside, for nobody to write into any more; on the device then."""

    def remove(self, path: Path) -> None:
        """Remove a tree, however deep it is, and what is half there of it. May be repeated."""

    def clear(self, directory: Path) -> None:
        """Remove what a killed process has left half done in a directory: nothing may be under way there."""

    def is_whole(self, path: Path) -> bool:
        """Whether there is a tree, all of it."""

    def size(self, path: Path) -> int:
        """How many bytes a tree refers to, shared with others or not; 0 where that is not known."""


class Streams(Protocol):
    """Trees as streams of bytes, whole and without an origin."""

    form: StreamForm
    """That of the streams which are made here."""

    def sent(self, tree: Path) -> AsyncGenerator[bytes, None]:
        """The stream of a tree that nobody writes into, in blocks of 1 MiB at most. Close it when done.

        Raises:
            StreamFailed
        """

    def receiving(self, form: StreamForm, directory: Path) -> AbstractAsyncContextManager[Receiver]:
        """A receiver that makes the tree `DISK` in a directory, and reaches nothing beside that.

        Raises:
            CannotReceive
        """


class Volume(Trees, Streams, Protocol):
    """All of it together, at `mount` once it is open, for root alone. Seen inside the mount space and nowhere else."""

    mount: Path

    def open(self) -> None:
        """Have it there. May be repeated."""

    def close(self) -> None:
        """Let it go; what it holds stays. May be repeated."""

    def limit(self, tree: Path, size_bytes: int) -> None:
        """Let a tree refer to so many bytes at most, where `limits_hold`."""

    def limits_hold(self) -> bool:
        """Whether a tree here stops at its limit: found out by trying."""

    def mend_limits(self) -> bool:
        """See that limits which did hold hold again; False while they do not."""

    def size_of_copy(self, tree: Path) -> int:
        """How many bytes a copy of a tree takes, before anything in it is changed."""

    def write_plainly(self, directory: Path) -> None:
        """Have files that are made in a directory from now on written as they are, without more care than they need."""

    def flush(self) -> None:
        """Have what was written until now on the device: what is kept next has less to wait for."""

    def free_bytes(self) -> int:
        """How much more can be written."""

    def make_room(self) -> None:
        """See that there is room ahead of what is written, where there is some to be had. To be called now and then."""


class OtherVolume(Exception):
    """What a node has lies on another kind of volume than its settings name; the sentence says what to do."""
