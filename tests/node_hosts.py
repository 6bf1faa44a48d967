"""A host in memory, which outlives the node processes over it and keeps what they have made."""

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path

from boxkeep_server.model.node_api import (
    IsolationFacts,
    Snapshot,
)
from boxkeep_server.node.layer import (
    Stock,
    Tenancy,
    Use,
)
from boxkeep_server.node.records import Machine
from boxkeep_server.node.room import Memory

GIB = 1 << 30


class Killed(BaseException):
    """The node process ends here; nothing of it runs on."""


class Mine:
    """Kills the node at the n-th step that it takes, and at every step it would take after that."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.steps: list[str] = []

    def __call__(self, step: str) -> None:
        self.steps.append(step)
        if self.at is not None and len(self.steps) > self.at:
            raise Killed(step)


@dataclass
class Body:
    """What there is of a machine in the world."""

    record: Machine | None = None
    disk: bool = False
    alive: bool = False
    tenancy: Tenancy | None = None
    use: Use = field(default_factory=lambda: Use(1 << 20, 5, 0))
    gone: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class Image:
    name: str
    digest: str
    root: Path


@dataclass
class Kept:
    """What there is of a snapshot: `memory` names the boot that wrote it, `whole` is None until it is sealed."""

    memory: str | None = None
    whole: Snapshot | None = None


class Host:
    """What outlives node processes: machines, snapshots, boots, time."""

    def __init__(self, lib: Path) -> None:
        self.lib = lib
        self.bodies: dict[str, Body] = {}
        self.kept: dict[str, Kept] = {}
        self.standing: set[str] = set()
        self.closed: set[str] = set()
        self.full = False
        self.busy = False
        self.lasting = True
        self.boot = "boot-1"
        self.time = 1_000_000
        self.set_by = 0
        self.memory = Memory(64 * GIB, 60 * GIB, 0.0)
        self.free_disk = 64 * GIB
        self.stock = Stock(
            images={name: Image(name, f"{name}-1", Path("/nowhere")) for name in ("base", "python")},
            isolations={
                "runsc": IsolationFacts(version="2024", pause_keeps="memory"),
                "runc": IsolationFacts(version="1.1", pause_keeps="files"),
            },
            guest_digest="guest-1",
        )

    def now(self) -> int:
        return self.time + self.set_by

    def uptime(self) -> int:
        return self.time

    def reboot(self) -> None:
        self.boot = f"boot-{int(self.boot[-1]) + 1}"
        for body in self.bodies.values():
            body.alive = False

    def die(self, machine: str, oom_kills: int = 0) -> None:
        body = self.bodies[machine]
        body.alive = False
        body.use = replace(body.use, oom_kills=body.use.oom_kills + oom_kills)
        body.gone.set()

    def living(self) -> set[str]:
        return {machine for machine, body in self.bodies.items() if body.alive}
