"""A machine layer in memory that outlives the node processes over it, and layers named for their fault."""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from boxkeep_server.model.ids import new_id
from boxkeep_server.model.node_api import ClaimWish, IsolationFacts, LeakCount, Leaks
from boxkeep_server.node.files import files_in
from boxkeep_server.node.layer import Birth, LastWords, MachineFailed, MachineLate, Stock, Tenancy, Use, no_tripwire
from boxkeep_server.node.pool import Kind
from boxkeep_server.node.records import Machine
from boxkeep_server.node.room import Memory
from boxkeep_server.node.service import Service, World

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


class Host:
    """What outlives node processes: machines, boots, time."""

    def __init__(self, lib: Path) -> None:
        self.lib = lib
        self.bodies: dict[str, Body] = {}
        self.boot = "boot-1"
        self.time = 1_000_000
        self.memory = Memory(64 * GIB, 60 * GIB, 0.0)
        self.stock = Stock(
            images={name: Image(name, f"{name}-1", Path("/nowhere")) for name in ("base", "python")},
            isolations={
                "runsc": IsolationFacts(version="2024", pause_keeps="memory"),
                "runc": IsolationFacts(version="1.1", pause_keeps="files"),
            },
            guest_digest="guest-1",
        )

    def now(self) -> int:
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


class Layer:
    """The machine layer as one node process has it. Each step may be the process' last."""

    def __init__(self, host: Host, step: Callable[[str], None] = no_tripwire) -> None:
        self.host = host
        self._step = step
        self.starting: set[str] = set()
        self.most_at_once = 0
        self.started: list[str] = []
        self.start_gate: asyncio.Event | None = None

    async def start(self, birth: Birth) -> Machine:
        assert birth.machine not in self.host.bodies, "a machine is made twice"
        self.starting.add(birth.machine)
        self.most_at_once = max(self.most_at_once, len(self.starting))
        try:
            return await self._start(birth)
        finally:
            self.starting.discard(birth.machine)

    async def _start(self, birth: Birth) -> Machine:
        self._step("layer: record")
        machine = Machine(
            id=birth.machine,
            born_as=birth.machine,
            isolation=birth.isolation,
            image=birth.image.name,
            digest=birth.image.digest,
            index=1,
            address="10.0.0.2",
            port=7071,
            secret=birth.secret,
            boot_id=self.host.boot,
            netns="",
        )
        body = self.host.bodies[birth.machine] = Body(machine)
        await asyncio.sleep(0)
        self._step("layer: disk")
        body.disk = True
        if self.start_gate is not None:
            await self.start_gate.wait()
        await asyncio.sleep(0)
        self._step("layer: process")
        body.alive = True
        self._step("layer: started")
        body.record = replace(machine, pid=1, started=1)
        self.started.append(birth.machine)
        return body.record

    async def rehearse(self, machine: Machine) -> None:
        self._step("layer: rehearse")
        await asyncio.sleep(0)
        if not self.host.bodies[machine.id].alive:
            raise MachineFailed("the guest is not there")

    async def hand_over(self, machine: Machine, tenancy: Tenancy) -> None:
        self._step("layer: hand over")
        await asyncio.sleep(0)
        body = self.host.bodies[machine.id]
        if not body.alive:
            raise MachineFailed("the guest is not there")
        if body.tenancy is not None and body.tenancy.secret != tenancy.secret:
            raise MachineFailed("claimed already with another secret")
        body.tenancy = tenancy
        self._step("layer: handed over")

    async def end(self, machine: str) -> None:
        self._step("layer: end")
        if machine in self.host.bodies:
            self.host.die(machine)

    async def destroy(self, machine: str) -> dict[str, LastWords]:
        assert machine not in self.starting, "a machine is destroyed while it is being made"
        self._step("layer: destroy")
        body = self.host.bodies.get(machine)
        words: dict[str, LastWords] = {}
        if body is not None:
            if body.alive:
                self.host.die(machine)
            await asyncio.sleep(0)
            self._step("layer: kill done")
            words = {"p" * 32: LastWords(b"out", b"err")} if body.disk and body.tenancy else {}
            body.disk = False
            self._step("layer: disk gone")
            del self.host.bodies[machine]
        return words

    def found(self) -> list[str]:
        return sorted(self.host.bodies)

    def read(self, machine: str) -> Machine | None:
        body = self.host.bodies.get(machine)
        return None if body is None else body.record

    def has_disk(self, machine: str) -> bool:
        body = self.host.bodies.get(machine)
        return body is not None and body.disk

    def alive(self, machine: Machine) -> bool:
        body = self.host.bodies.get(machine.id)
        return machine.pid is not None and body is not None and body.alive

    async def exited(self, machine: Machine) -> None:
        body = self.host.bodies.get(machine.id)
        if body is not None and body.alive:
            await body.gone.wait()

    def use(self, machine: str) -> Use | None:
        body = self.host.bodies.get(machine)
        return None if body is None else body.use


class NeverStarts(Layer):
    """Every machine fails while it is being made, and leaves its traces."""

    async def _start(self, birth: Birth) -> Machine:
        self.host.bodies[birth.machine] = Body(disk=True)
        raise MachineFailed("the guest does not answer")


class ComesLate(Layer):
    """The first machines do not come up in time, and leave their traces."""

    late = 1

    async def _start(self, birth: Birth) -> Machine:
        if self.late:
            self.late -= 1
            self.host.bodies[birth.machine] = Body(disk=True)
            raise MachineLate("the guest does not answer")
        return await super()._start(birth)


class DiesYoung(Layer):
    """Machines come up and are dead before they can be handed over."""

    async def hand_over(self, machine: Machine, tenancy: Tenancy) -> None:
        self.host.die(machine.id)
        await super().hand_over(machine, tenancy)


class ForgetsToDie(Layer):
    """Machines do not go while `stubborn`."""

    stubborn = True

    async def destroy(self, machine: str) -> dict[str, LastWords]:
        if self.stubborn and machine in self.host.bodies:
            raise MachineFailed("its processes do not go")
        return await super().destroy(machine)


def service_over(
    layer: Layer,
    *,
    slots: int = 10,
    warm: dict[Kind, int] | None = None,
    starts_at_once: int = 2,
    step: Callable[[str], None] = no_tripwire,
) -> Service:
    """A node process over a layer; its files are in the layer's host's directory."""
    host = layer.host

    async def leaks(owned: set[str]) -> Leaks:
        strays = tuple(machine for machine in layer.found() if machine not in owned)
        return Leaks(leaks=(LeakCount(kind="machines", items=strays),))

    return Service(
        World(
            maker=layer,
            observer=layer,
            files=files_in(host.lib, step),
            stock=lambda: host.stock,
            leaks=leaks,
            memory=lambda: host.memory,
            now=host.now,
            new_id=new_id,
            new_secret=lambda: secrets.token_hex(32),
            boot_id=host.boot,
            node_id="n" * 32,
            region="loc",
            version="1",
            slots=slots,
            warm=warm or {},
            starts_at_once=starts_at_once,
            disk_limit=True,
        )
    )


async def adopted(
    layer: Layer, *, slots: int = 10, warm: dict[Kind, int] | None = None, starts_at_once: int = 2
) -> Service:
    """A node process that has taken over what there was."""
    service = service_over(layer, slots=slots, warm=warm, starts_at_once=starts_at_once)
    await service.adopt()
    return service


def wish(sandbox: str | None = None, epoch: int = 1, not_after: int = 5_000_000, **fields: object) -> ClaimWish:
    """A wish for a machine."""
    return ClaimWish.model_validate(
        {
            "sandbox": sandbox or new_id(),
            "epoch": epoch,
            "image": "base",
            "notAfter": not_after,
            "hostname": "box",
            "env": {"TOKEN": "s3cret-value"},
            **fields,
        }
    )


async def until(true: Callable[[], bool]) -> None:
    """Let everything else go on until something is so."""
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0)
