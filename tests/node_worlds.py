"""A machine layer in memory that outlives the node processes over it, and layers named for their fault."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from boxkeep_server.model.ids import new_id
from boxkeep_server.model.machines import Key, names_of
from boxkeep_server.model.node_api import (
    ClaimWish,
    IsolationFacts,
    LeakCount,
    Leaks,
    Role,
    Snapshot,
    SnapshotBases,
    checkpoint_name,
)
from boxkeep_server.node.bases import Bases
from boxkeep_server.node.files import files_in
from boxkeep_server.node.images import Images
from boxkeep_server.node.layer import (
    NOT_LASTING,
    Birth,
    Busy,
    LastWords,
    MachineFailed,
    MachineLate,
    NoSpace,
    Revival,
    Stock,
    Subject,
    Tenancy,
    Unfit,
    Use,
    no_tripwire,
)
from boxkeep_server.node.parts import MemoryImage, Origin
from boxkeep_server.node.plain_directory import PlainDirectory
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
            epoch=birth.origin.memory.epoch if birth.origin and birth.origin.memory else 0,
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

    async def still(self, machine: Machine, epoch: int, secret: str, *, if_idle: bool) -> bool:
        self._step("layer: still")
        if self.host.busy and if_idle:
            raise Busy("something runs")
        self.host.closed.add(machine.id)
        return self.host.lasting

    async def flush(self, machine: Machine, epoch: int, secret: str) -> None:
        self._step("layer: flush")

    async def unstill(self, machine: Machine, epoch: int, secret: str) -> None:
        self._step("layer: unstill")
        self.host.closed.discard(machine.id)

    async def copy(self, subject: Subject, checkpoint: str, *, memory: bool) -> Snapshot:
        name = checkpoint_name(checkpoint, subject.key.role)
        kept = self.host.kept.get(name)
        if kept is not None and kept.whole is not None:
            return kept.whole
        if self.host.full:
            raise NoSpace("no room")
        self._step("layer: begin checkpoint")
        kept = self.host.kept[name] = Kept()
        body = self.host.bodies[subject.machine]
        if body.alive:
            self.host.standing.add(subject.machine)
            self._step("layer: stands")
            await asyncio.sleep(0)
            if not body.disk or not body.alive:
                raise MachineFailed("it is gone")
            self.host.standing.discard(subject.machine)
        self._step("layer: seal checkpoint")
        kept.whole = snapshot_of(subject, "memory" if memory and body.alive else "files", self.host.time, checkpoint)
        self._step("layer: checkpoint sealed")
        return kept.whole

    async def go_on(self, machine: Machine) -> None:
        self._step("layer: go on")
        self.host.standing.discard(machine.id)

    async def forget(self, checkpoint: str) -> bool:
        self._step("layer: forget")
        gone = [self.host.kept.pop(name, None) for name in names_of(checkpoint)]
        return any(one is not None for one in gone)

    async def keep(self, subject: Subject, *, or_files: bool, lasting: bool = True) -> Snapshot:
        kept = self.host.kept.get(subject.key.name)
        if kept is not None and kept.whole is not None:
            return kept.whole
        if not (lasting or or_files):
            raise MachineFailed(NOT_LASTING)
        body = self.host.bodies.get(subject.machine)
        if body is not None and body.alive:
            kept = await self._stop(subject)
        if kept is not None and not lasting:
            kept.memory = None
        if body is None or not body.disk:
            raise MachineFailed("its disk is gone")
        kept = kept or self.host.kept.setdefault(subject.key.name, Kept())
        self._step("layer: take disk")
        await asyncio.sleep(0)
        snapshot = snapshot_of(subject, "memory" if kept.memory == self.host.boot else "files", self.host.time)
        self._step("layer: seal")
        kept.whole = snapshot
        self._step("layer: sealed")
        return snapshot

    async def _stop(self, subject: Subject) -> Kept:
        if self.host.full:
            raise NoSpace("no room")
        self._step("layer: begin snapshot")
        kept = self.host.kept[subject.key.name] = Kept()
        await asyncio.sleep(0)
        self._step("layer: write memory")
        if subject.isolation == "runsc":
            kept.memory = self.host.boot
            self.host.die(subject.machine)
            await asyncio.sleep(0)
            self._step("layer: memory written")
        return kept

    def kept(self) -> tuple[Snapshot, ...]:
        return tuple(one.whole for one in self.host.kept.values() if one.whole is not None)

    def find(self, name: str) -> Snapshot | None:
        kept = self.host.kept.get(name)
        return None if kept is None else kept.whole

    async def revive(self, name: str, *, memory: bool) -> Revival:
        self._step("layer: revive")
        snapshot = self.find(name)
        if snapshot is None:
            raise Unfit("it is not there")
        image = Image(snapshot.image, snapshot.digest, Path("/nowhere"))
        image_of = MemoryImage(Path("/memory"), Path("/guest"), "b" * 32, snapshot.epoch, "00" * 32)
        digests = {"image": snapshot.digest, "guest": "guest-1", "runtime": "any"}
        return Revival(
            image, digests, Origin(Path("/disk"), image_of if memory and snapshot.keeps == "memory" else None)
        )

    async def discard(self, sandbox: str, through: int, role: Role) -> int:
        self._step("layer: discard")
        keys = ((name, Key.named(name)) for name in self.host.kept)
        old = [name for name, key in keys if key and key == (sandbox, min(key.epoch, through), role)]
        for name in old:
            del self.host.kept[name]
        return len(old)

    def bases(self, name: str) -> SnapshotBases:
        if self.find(name) is None:
            raise Unfit("it is not there")
        return SnapshotBases(image="i" * 32)

    async def pack(self, name: str) -> AsyncGenerator[bytes, None]:
        snapshot = self.find(name)
        if snapshot is None:
            raise Unfit("it is not there")
        self._step("layer: pack")
        yield snapshot.model_dump_json().encode()

    async def unpack(self, name: str, messages: AsyncIterable[bytes]) -> Snapshot:
        found = self.find(name)
        if found is not None:
            return found
        self._step("layer: begin to unpack")
        kept = self.host.kept[name] = Kept()
        content = b"".join([message async for message in messages])
        self._step("layer: unpacked")
        kept.whole = Snapshot.model_validate_json(content)
        return kept.whole

    async def halves(self) -> list[str]:
        return [name for name, one in self.host.kept.items() if one.whole is None]

    async def clear(self, names: Collection[str]) -> int:
        halves = [name for name in names if name in self.host.kept and self.host.kept[name].whole is None]
        for name in halves:
            del self.host.kept[name]
        return len(halves)

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


def snapshot_of(
    subject: Subject, keeps: Literal["memory", "files"], at: int, checkpoint: str | None = None
) -> Snapshot:
    return Snapshot(
        sandbox=subject.key.sandbox,
        epoch=subject.key.epoch,
        role=subject.key.role,
        isolation=subject.isolation,
        image=subject.image,
        digest=subject.digests["image"],
        keeps=keeps,
        bytes=1 << 20,
        taken_at=at,
        stood_ms=1,
        checkpoint=checkpoint,
    )


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
            keeper=layer,
            bases=Bases(
                Images(PlainDirectory(host.lib, host.lib), host.lib / "pool", host.lib / "images"),
                host.lib / "images",
                host.lib / "guests",
            ),
            observer=layer,
            files=files_in(host.lib, step),
            stock=lambda: host.stock,
            leaks=leaks,
            memory=lambda: host.memory,
            now=host.now,
            uptime=host.uptime,
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
            free_disk=lambda: host.free_disk,
            calm_s=0.0,
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
