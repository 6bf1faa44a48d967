"""What claims and pool ask of the machines of a node: the seam between who owns a machine and how one is made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from boxkeep_server.model.node_api import ImageName, Isolation, IsolationFacts, NetworkWish
from boxkeep_server.node.records import Machine

Clock = Callable[[], int]
"""The time, epoch ms."""

Tripwire = Callable[[str], None]
"""Called with the name of each step before it is taken. A test passes one that stops the node there."""


def no_tripwire(step: str) -> None:
    """Let every step be taken."""


class MachineFailed(Exception):
    """A machine could not be made, handed over or removed; the sentence says what is known."""


class MachineLate(MachineFailed):
    """It took too long, which may be the host's load and no fault of the machine's: worth another try."""


class Image(Protocol):
    """A read-only tree that machines begin from."""

    @property
    def name(self) -> str:
        """What users call it."""

    @property
    def digest(self) -> str:
        """What it holds."""

    @property
    def root(self) -> Path:
        """Where it lies."""


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


@dataclass(frozen=True, slots=True)
class Birth:
    """A machine to be made. `secret` is its first secret, 64 hex digits."""

    machine: str
    image: Image
    isolation: Isolation
    hostname: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Tenancy:
    """What a machine is told when it is handed to a sandbox; `env` goes to its guest and nowhere else."""

    epoch: int
    secret: str = field(repr=False)
    hostname: str
    network: NetworkWish
    env: Mapping[str, str] = field(repr=False)


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

    async def end(self, machine: str) -> None:
        """Kill everything in a machine; its disk stays. It may take a moment to be gone. May be repeated."""

    async def destroy(self, machine: str) -> dict[str, LastWords]:
        """Remove a machine without a trace, from whatever state. Again, or for one never made: nothing happens.

        Raises:
            MachineFailed
        """


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
