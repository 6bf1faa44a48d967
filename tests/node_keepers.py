"""Snapshots in memory, as one node process keeps them and goes on from them."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Collection
from pathlib import Path
from typing import Literal

from boxkeep_server.model.machines import Key, names_of
from boxkeep_server.model.node_api import (
    Role,
    Snapshot,
    SnapshotBases,
    checkpoint_name,
)
from boxkeep_server.node.layer import (
    NOT_LASTING,
    MachineFailed,
    NoSpace,
    Revival,
    Subject,
    Unfit,
)
from boxkeep_server.node.parts import MemoryImage, Origin
from boxkeep_server.node.records import Machine
from tests.node_hosts import Host, Image, Kept


class Keeping:
    """See `layer.Keeper`, over a host in memory. Each step may be the process' last."""

    host: Host
    _step: Callable[[str], None]

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
