"""What is left of machines that belong to nobody, counted by kind: what is seen less what is owned."""

import asyncio
import contextlib
import json
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boxkeep_server.model.node_api import LeakCount, Leaks
from boxkeep_server.node import netns, nft
from boxkeep_server.node.cgroups import Cgroups
from boxkeep_server.node.disks import Disks
from boxkeep_server.node.mountspace import mounts
from boxkeep_server.node.network import Network
from boxkeep_server.node.nftables import Nftables
from boxkeep_server.node.records import Records

_ID: Final = re.compile(r"(?<![a-z0-9])[a-z0-9]{32}(?![a-z0-9])")

Seen = Mapping[str, Mapping[str, str | None]]
"""By kind, each thing with the machine that it is of; None when it is of none."""


def unowned(seen: Seen, owned: set[str]) -> Leaks:
    """What is of no machine that is owned."""
    counts = []
    for kind, things in sorted(seen.items()):
        items = tuple(sorted(name for name, machine in things.items() if machine not in owned))
        counts.append(LeakCount(kind=kind, items=items))
    return Leaks(leaks=tuple(counts))


@dataclass(frozen=True)
class Observer:
    """Looks at the kernel and the disks of one instance."""

    run: Path
    pool_file: Path
    disks: Disks
    cgroups: Cgroups
    network: Network
    records: Records
    taken: Callable[[], Iterable[int]]

    async def leaks(self, owned: set[str]) -> Leaks:
        """What belongs to nobody. What was made or taken away between two looks is not counted."""
        first = await self._look(owned)
        if not first.total:
            return first
        await asyncio.sleep(0.3)
        return _both(first, await self._look(owned))

    async def _look(self, owned: set[str]) -> Leaks:
        return unowned(await asyncio.to_thread(self._seen), owned)

    def _seen(self) -> Seen:
        recorded = self._recorded()
        links = {self.network.link(one.index): one.id for one in recorded}
        places = {one.index: one.id for one in recorded}
        looks: dict[str, Callable[[], Mapping[str, str | None]]] = {
            "processes": self._processes,
            "mounts": lambda: _by_id(one.target for one in mounts() if "/machines/" in one.target),
            "netns": lambda: _by_id(path.name for path in (self.run / "net").iterdir() if path.suffix == ""),
            "veths": lambda: _of(_links(self.network), links),
            "cgroups": lambda: {one: one for one in self.cgroups.machines()},
            "nftElements": lambda: _of(_elements(self.network), links),
            "disks": lambda: {one: one for one in self.disks.machines()},
            "addresses": lambda: {self._address(index): places.get(index) for index in self.taken()},
            "loopDevices": lambda: dict.fromkeys(_extra_loops(self.pool_file)),
        }
        seen = {kind: look() for kind, look in looks.items()}
        seen["netns"] = {name: machine for name, machine in seen["netns"].items() if name != "router"}
        return seen

    def _recorded(self) -> list["Recorded"]:
        found = (self.records.read(machine) for machine in self.records.machines())
        return [Recorded(one.id, one.index) for one in found if one is not None]

    def _address(self, index: int) -> str:
        return self.network.plan.place(index).address

    def _processes(self) -> dict[str, str | None]:
        """Those in machines' cgroups, and those of runtimes: their words name a file of this instance and a machine."""
        inside = {str(pid): machine for machine in self.cgroups.machines() for pid in self.cgroups.processes(machine)}
        return {**_working(f"{self.run}/"), **inside}


@dataclass(frozen=True)
class Recorded:
    """A machine that is written down, and the number of its place."""

    id: str
    index: int


def _both(first: Leaks, second: Leaks) -> Leaks:
    before = {one.kind: set(one.items) for one in first.leaks}
    return Leaks(
        leaks=tuple(
            LeakCount(kind=one.kind, items=tuple(item for item in one.items if item in before.get(one.kind, ())))
            for one in second.leaks
        )
    )


def _by_id(names: Iterable[str]) -> dict[str, str | None]:
    return {name: (found[-1] if (found := _ID.findall(name)) else None) for name in names}


def _of(things: Mapping[str, str], owners: Mapping[str, str]) -> dict[str, str | None]:
    return {name: owners.get(key) for name, key in things.items()}


def _links(network: Network) -> dict[str, str]:
    """The router's ends of machines' links."""
    listed = netns.within(network.router, lambda: netns.run(["ip", "-j", "link"]))
    names = (link["ifname"] for link in json.loads(listed))
    return {name: name for name in names if name.startswith(network.link_prefix)}


def _elements(network: Network) -> dict[str, str]:
    """What the router's table holds of sandboxes, each element with its link."""
    with contextlib.closing(netns.within(network.router, Nftables)) as rules:
        listed = {name: nft.elements(rules.json(f"list set inet {nft.TABLE} {name}")) for name in nft.OF_SANDBOXES}
    return {f"{name} {' . '.join(element)}": element[0] for name, held in listed.items() for element in held}


def _working(directory: str, proc: Path = Path("/proc")) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for entry in proc.iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace") if entry.name.isdigit() else ""
            if directory in words and (machines := _ID.findall(words)):
                found[entry.name] = machines[-1]
    return found


def _extra_loops(pool_file: Path) -> list[str]:
    """Loop devices over the pool's file beyond the one that is mounted."""
    with contextlib.suppress(FileNotFoundError):
        listed = subprocess.run(
            ["losetup", "--noheadings", "--output", "NAME", "--associated", pool_file],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.split()
        return listed[1:]
    return []
