"""What a machine is asked for and what it is made of: the words that machines share with images, network and guest."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from boxkeep_server.model.node_api import Isolation
from boxkeep_server.node.cgroups import Cgroups
from boxkeep_server.node.disks import Disks
from boxkeep_server.node.oci import Ceilings, Host
from boxkeep_server.node.runtimes import Runtime


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


class Attached(Protocol):
    """A machine's place in the network."""

    @property
    def netns_path(self) -> Path:
        """Its network namespace."""

    @property
    def address(self) -> str:
        """Its IPv4 address."""

    @property
    def gateway(self) -> str:
        """The other end of its link, where its DNS forwarder answers."""


class Network(Protocol):
    """What machines need of the network."""

    async def attach(self, machine: str, index: int) -> Attached:
        """Give a machine the place of that number."""

    async def detach(self, machine: str, index: int) -> None:
        """Take it away. May be repeated."""

    async def cut_off(self, machine: str, index: int) -> None:
        """Reset the connections that a machine has opened to the outside, and new ones until `readmit`. In bounded
        time; what does not come about of it is logged and raises nothing. May be repeated."""

    async def readmit(self, index: int) -> None:
        """Take `cut_off` back, were it so or not.

        Raises:
            CommandFailed
        """


class Addresses(Protocol):
    """The numbers of the network's places, each lent to one machine at a time."""

    def take(self, machine: str) -> int:
        """Lend a number that is free."""

    def rest(self, index: int) -> None:
        """Take it back. May be repeated."""


@dataclass(frozen=True)
class Guest:
    """The guest's self-contained tree on the host, and the command line that runs it inside but for the boot file."""

    tree: Path
    argv: tuple[str, ...]


@dataclass(frozen=True)
class Parts:
    """What machines are made of on one node."""

    disks: Disks
    cgroups: Cgroups
    network: Network
    addresses: Addresses
    runtimes: Mapping[Isolation, Runtime]
    guest: Guest
    host: Host


@dataclass(frozen=True)
class MemoryImage:
    """The memory of a machine that was stopped: its files, the guest's tree that they were made over, and by which id,
    epoch and secret that guest is opened."""

    directory: Path
    guest: Path
    born_as: str
    epoch: int
    secret: str = field(repr=False)


@dataclass(frozen=True)
class Origin:
    """What a machine goes on from: a copy of a disk, and with `memory` the processes that belong to it."""

    disk: Path
    memory: MemoryImage | None = None


@dataclass(frozen=True)
class MachineSpec:
    """A machine wanted. `secret` is its first secret for the guest wire, 64 hex digits.

    `origin` is what it goes on from, where it does not begin with an empty disk.
    """

    id: str
    isolation: Isolation
    image: Image
    ceilings: Ceilings
    hostname: str
    secret: str
    origin: Origin | None = None

    def __repr__(self) -> str:
        return f"MachineSpec({self.id}, {self.isolation}, {self.image.name})"
