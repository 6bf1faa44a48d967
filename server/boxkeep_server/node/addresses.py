"""The numbers of the sandboxes' /30 networks: lent to one machine at a time, rested before they are lent again."""

import ipaddress
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

REST_S: Final = 600.0
"""How long an address is not used after its machine is gone: longer than anything remembers who had it."""

_PREFIX: Final = 30


class NoAddress(Exception):
    """Every address is taken or resting."""


@dataclass(frozen=True, slots=True)
class Place:
    """A machine's network: its own address and that of the router's end of its link."""

    gateway: str
    address: str


@dataclass(frozen=True, slots=True)
class Plan:
    """How an instance's subnet is divided: /30s by number, the last of which is the uplink's."""

    subnet: ipaddress.IPv4Network

    @property
    def size(self) -> int:
        """How many machines have a place."""
        return int((1 << (_PREFIX - self.subnet.prefixlen)) - 1)

    @property
    def uplink(self) -> Place:
        """The host's end as gateway, the router's as address."""
        return self._place(self.size)

    def place(self, index: int) -> Place:
        """The place with a number.

        Raises:
            ValueError: there is none.
        """
        if not 0 <= index < self.size:
            raise ValueError(f"{self.subnet} has no network {index}")
        return self._place(index)

    def _place(self, index: int) -> Place:
        first = int(self.subnet.network_address) + index * 4
        return Place(str(ipaddress.IPv4Address(first + 1)), str(ipaddress.IPv4Address(first + 2)))


class Addresses:
    """Which numbers are free. `now_s` is a clock that goes on through restarts of the node, as a monotonic one does.

    `kept`, where it is given, is a file of this boot that remembers who rests; who is taken, the machines themselves
    say to a new node process.
    """

    def __init__(
        self, size: int, now_s: Callable[[], float], taken: Iterable[int] = (), kept: Path | None = None
    ) -> None:
        self._size = size
        self._now_s = now_s
        self._taken = set(taken)
        self._kept = kept
        self._rested_at = _read(kept)
        self._next = 0

    def take(self, machine: str) -> int:
        """Lend a number.

        Raises:
            NoAddress: none is free.
        """
        now_s = self._now_s()
        for step in range(self._size):
            index = (self._next + step) % self._size
            if index not in self._taken and self._rested_at.get(index, now_s) <= now_s:
                self._rested_at.pop(index, None)
                self._taken.add(index)
                self._next = (index + 1) % self._size
                return index
        raise NoAddress(f"All {self._size} networks are in use or rest for {REST_S:.0f} s after their use")

    def taken(self) -> frozenset[int]:
        """The numbers that are lent now."""
        return frozenset(self._taken)

    def claim(self, index: int) -> None:
        """Note a number that a machine of an earlier node process has."""
        self._taken.add(index)

    def rest(self, index: int) -> None:
        """Take a number back, to be lent again after its rest. May be repeated."""
        if index not in self._taken:
            return
        now_s = self._now_s()
        self._taken.discard(index)
        self._rested_at = {one: until for one, until in self._rested_at.items() if until > now_s}
        self._rested_at[index] = now_s + REST_S
        if self._kept is not None:
            _write(self._kept, self._rested_at)


def _read(kept: Path | None) -> dict[int, float]:
    """Who rests. A file that is not there or not whole tells of nobody: the rest is a second line of defence."""
    try:
        noted = json.loads(kept.read_text()) if kept is not None else {}
        return {int(index): float(until) for index, until in noted.items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return {}


def _write(kept: Path, rested_at: Mapping[int, float]) -> None:
    fresh = kept.with_suffix(".new")
    fresh.write_text(json.dumps(rested_at))
    fresh.replace(kept)
