"""What the claims of a node work with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from boxkeep_server.node.berths import Berths
from boxkeep_server.node.bindings import Bindings
from boxkeep_server.node.crew import Crew
from boxkeep_server.node.layer import Clock, Keeper, Maker, Observer, Stock
from boxkeep_server.node.ledger import Held, Ledger
from boxkeep_server.node.pool import Pool
from boxkeep_server.node.released import Released


class Admission(Protocol):
    """Says whether this node takes another sandbox, `taken` slots being used."""

    def admits(self, taken: int) -> bool:
        """Whether there is room."""


class Meters(Protocol):
    """Counts what claims do."""

    def claimed(self, kind: str, warm: bool, seconds: float) -> None:
        """A claim was answered."""

    def failed(self, kind: str) -> None:
        """A machine could not be had."""

    def released(self, seconds: float) -> None:
        """A machine is gone."""


@dataclass(frozen=True)
class Means:
    """What claims work with."""

    maker: Maker
    keeper: Keeper
    observer: Observer
    files: Bindings
    ledger: Ledger
    released: Released
    pool: Pool
    berths: Berths
    crew: Crew
    admission: Admission
    meters: Meters
    stock: Callable[[], Stock]
    boot_id: str
    now: Clock
    uptime: Clock
    new_id: Callable[[], str]
    new_secret: Callable[[], str]
    watch: Callable[[Held], None]
