"""What claims and pool ask of the machines of a node: the seam between who owns a machine and how one is made."""

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from boxkeep_server.model.machines import Key
from boxkeep_server.model.node_api import (
    ImageName,
    Isolation,
    IsolationFacts,
    NetworkWish,
    Role,
    Snapshot,
    SnapshotBases,
)
from boxkeep_server.node.parts import Image, Origin
from boxkeep_server.node.records import Machine

Clock = Callable[[], int]
"""The time, epoch ms."""

Tripwire = Callable[[str], None]
"""Called with the name of each step before it is taken. A test passes one that stops the node there."""


NOT_LASTING: Final = "A connection within it is being opened that nobody takes: its memory could not be gone on from"
"""Why the memory of a machine is not kept whose `still` says so."""


def no_tripwire(step: str) -> None:
    """Let every step be taken."""


class MachineFailed(Exception):
    """A machine could not be made, handed over or removed; the sentence says what is known."""


class MachineLate(MachineFailed):
    """It took too long, which may be the host's load and no fault of the machine's: worth another try."""


@dataclass(frozen=True, slots=True)
class Use:
    """What a machine uses: bytes now, processor time and processes killed for want of memory so far."""

    memory_bytes: int
    cpu_ms: int
    oom_kills: int


@dataclass(frozen=True, slots=True)
class LastWords:
    """The last bytes that an unfinished command wrote, at most 64 KiB of each stream."""

    stdout: bytes
    stderr: bytes


class Busy(MachineFailed):
    """Something runs in a machine that was to be paused only when nothing does."""


class NoSpace(MachineFailed):
    """What would be kept of a machine does not fit on the disks."""


class Unfit(MachineFailed):
    """What was kept is damaged, or cannot be gone on from here."""


@dataclass(frozen=True, slots=True)
class Birth:
    """A machine to be made. `secret` is its first secret, 64 hex digits. It begins with an empty disk, or goes on from
    `origin`."""

    machine: str
    image: Image
    isolation: Isolation
    hostname: str
    secret: str = field(repr=False)
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """A bound machine that is to be kept: what is written of it, None where nothing is, and what it was made of.

    `secret` is the one of its epoch.
    """

    key: Key
    machine: str
    record: Machine | None
    isolation: Isolation
    image: ImageName
    digests: Mapping[str, str]
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Revival:
    """What a machine is made of that goes on from a snapshot."""

    image: Image
    digests: Mapping[str, str]
    origin: Origin


@dataclass(frozen=True, slots=True)
class Tenancy:
    """What a machine is told when it is handed to a sandbox; `env` goes to its guest and nowhere else.

    `resumed`: it goes on from a snapshot, and has to learn where it is now; with `forked` it is another sandbox's.
    """

    epoch: int
    secret: str = field(repr=False)
    hostname: str
    network: NetworkWish
    env: Mapping[str, str] = field(repr=False)
    resumed: bool = False
    forked: bool = False


@dataclass(frozen=True)
class Stock:
    """What machines of this node are made of now. The first isolation is the default."""

    images: Mapping[ImageName, Image]
    isolations: Mapping[Isolation, IsolationFacts]
    guest_digest: str

    def digests(self, image: ImageName, isolation: Isolation) -> dict[str, str] | None:
        """What names the content of a machine of that kind, None when it cannot be made here."""
        if image not in self.images or isolation not in self.isolations:
            return None
        return {
            "image": self.images[image].digest,
            "guest": self.guest_digest,
            "runtime": f"{isolation} {self.isolations[isolation].version}",
        }


class Maker(Protocol):
    """Makes and removes machines. Calls for one machine must not overlap, nor be cancelled; each ends by itself."""

    async def start(self, birth: Birth) -> Machine:
        """Make a machine; answers when its guest listens.

        Raises:
            MachineFailed: what there is of it waits for `destroy`.
        """

    async def rehearse(self, machine: Machine) -> None:
        """Run a command in a machine that nobody has claimed: the next one finds in memory what it needs.

        Raises:
            MachineFailed
        """

    async def hand_over(self, machine: Machine, tenancy: Tenancy) -> None:
        """Give a machine to a sandbox: what it may reach, its host name, its secret and environment. May be repeated.

        Raises:
            MachineFailed
        """

    async def still(self, machine: Machine, epoch: int, secret: str, *, if_idle: bool) -> bool:
        """Have nothing begin any more in a machine that is handed over, and cut off who is being served; with `if_idle`
        only when nothing runs and nobody is. Whether its memory would be any good now: gVisor can go on from none in
        which a connection is being opened.

        Raises:
            Busy, MachineFailed
        """

    async def flush(self, machine: Machine, epoch: int, secret: str) -> None:
        """Have the machine's own kernel write to its disk what it holds back of files.

        Raises:
            MachineFailed
        """

    async def unstill(self, machine: Machine, epoch: int, secret: str) -> None:
        """Take `still` back. May be repeated.

        Raises:
            MachineFailed
        """

    async def end(self, machine: str) -> None:
        """Kill everything in a machine; its disk stays. It may take a moment to be gone. May be repeated."""

    async def destroy(self, machine: str) -> dict[str, LastWords]:
        """Remove a machine without a trace, from whatever state. Again, or for one never made: nothing happens.

        Raises:
            MachineFailed
        """


class Keeper(Protocol):
    """Keeps what there is of machines, as snapshots that outlive every process and the host's restart."""

    async def keep(self, subject: Subject, *, or_files: bool, lasting: bool = True) -> Snapshot:
        """Stop a machine, if it lives, and keep its disk, with its memory where its isolation can; on the device when
        this returns. What remains of the machine waits for `destroy`. With `or_files` memory that cannot be written, or
        by the word of `still` is not `lasting`, is given up.

        May be repeated at any point, by another process too: one that was kept is answered as it was; one that stopped
        on the way is kept with what there is of it.

        Raises:
            NoSpace: nothing was done, the machine goes on.
            MachineFailed: if the machine lives it goes on.
        """

    async def copy(self, subject: Subject, checkpoint: str, *, memory: bool) -> Snapshot:
        """Keep the disk of a machine as that of its role at a checkpoint, with its memory where that is asked and its
        isolation can; on the device when this returns. The machine stands still meanwhile and goes on; of a dead one
        there are its files.

        May be repeated: one that was kept is answered as it was, and of any other nothing is used.

        Raises:
            NoSpace, MachineFailed: nothing is kept; the machine goes on if it lives.
        """

    async def go_on(self, machine: Machine) -> None:
        """Have a machine run that a process before this one left standing in `copy`. May be repeated.

        Raises:
            MachineFailed
        """

    def kept(self) -> tuple[Snapshot, ...]:
        """Every snapshot that is whole."""

    def find(self, name: str) -> Snapshot | None:
        """A snapshot, None when there is no whole one.

        Raises:
            Unfit: its manifest is damaged.
        """

    async def revive(self, name: str, *, memory: bool) -> Revival:
        """Verify a snapshot and say how a machine goes on from it: with the memory that it has, or from its files alone
        and whatever its memory is like.

        Raises:
            Unfit
        """

    async def discard(self, sandbox: str, through: int, role: Role) -> int:
        """Remove every snapshot that a pause of a sandbox's role left up to that epoch; how many. May be repeated."""

    async def forget(self, checkpoint: str) -> bool:
        """Remove what is kept of all machines at a checkpoint; whether there was anything. May be repeated."""

    def bases(self, name: str) -> SnapshotBases:
        """What a snapshot is made over.

        Raises:
            Unfit: there is no whole one.
        """

    def pack(self, name: str) -> AsyncGenerator[bytes, None]:
        """The messages of which `unpack` makes this snapshot again, on any node. Close it when done.

        Raises:
            Unfit: there is no whole one.
            MachineFailed: while it is read.
        """

    async def unpack(self, name: str, messages: AsyncIterable[bytes]) -> Snapshot:
        """Have a snapshot that comes as messages, verified and on the device when this returns; one that is here and
        undamaged stays as it is. What comes is believed to be what a node has packed, and nothing else of it.

        Raises:
            NoSpace, MachineFailed: nothing is here of it.
            Exception: what `messages` raises, likewise.
        """

    async def halves(self) -> Sequence[str]:
        """What was begun and is not whole, be it under way or left behind."""

    async def clear(self, names: Collection[str]) -> int:
        """Remove those of these that are not whole, none of them under way; how many."""


class Observer(Protocol):
    """Sees which machines there are. Nothing here changes anything."""

    def found(self) -> list[str]:
        """The ids of all machines that there is any trace of."""

    def read(self, machine: str) -> Machine | None:
        """What is written of a machine; None when nothing is."""

    def has_disk(self, machine: str) -> bool:
        """Whether a machine's disk is there."""

    def alive(self, machine: Machine) -> bool:
        """Whether a machine's first process runs."""

    async def exited(self, machine: Machine) -> None:
        """Wait until a machine's first process has ended."""

    def use(self, machine: str) -> Use | None:
        """What a machine uses; None when there is nothing of it that could."""
