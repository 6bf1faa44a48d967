"""Keeps machines as snapshots: memory and disk of one moment, on the device before it is said; and lets them go on."""

import asyncio
import contextlib
import errno
import logging
import os
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from boxkeep_server.model.node_api import Isolation, IsolationFacts, Role, Snapshot, SnapshotBases, checkpoint_name
from boxkeep_server.node import hostfacts
from boxkeep_server.node.disks import Disks
from boxkeep_server.node.images import Image
from boxkeep_server.node.layer import NOT_LASTING, Clock, MachineFailed, NoSpace, Revival, Subject, Unfit
from boxkeep_server.node.machines import Machines, boot_id, told
from boxkeep_server.node.parcels import packed, unpacked
from boxkeep_server.node.parts import MemoryImage, Origin
from boxkeep_server.node.program_streams import StreamFailed
from boxkeep_server.node.records import Machine
from boxkeep_server.node.room import SPARE_DISK_BYTES
from boxkeep_server.node.runtimes import RuntimeFailed
from boxkeep_server.node.snapshots import Damaged, FileSum, Manifest, Snapshots
from boxkeep_server.node.volumes import CannotReceive

_log = logging.getLogger(__name__)

_FULL: Final = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
_LAPS: Final = ("earlier commands", "standstill", "processes", "disk and sums", "seal")
_NO_MEMORY: Final = "Nothing ran in the machine, or its isolation keeps files alone"
_MEMORY_LOST: Final = "The machine ended before its memory was written"
_NOT_WRITTEN: Final = "Its memory could not be written: a program may hold open a file that was deleted or replaced"


@dataclass(frozen=True)
class Keeper:
    """See `layer.Keeper`.

    Why a machine outlives the death of this process at any point. It is halted, and its memory is written by a command
    of the runtime's that goes on without us, and that leaves a mark behind which names the boot; only then it is ended.
    So whoever comes after waits for that command, and then finds the machine alive, and begins again, or dead. Of one
    that is dead the disk stands still, and its memory counts if the mark is there and of this boot, since what a boot
    before has written may not all be on the device. Where memory cannot be written the machine goes on, or, where that
    is wished, its files alone are kept, and the snapshot says so. The manifest comes last of all.
    """

    machines: Machines
    snapshots: Snapshots
    disks: Disks
    guests: Path
    guest_digest: str
    isolations: Mapping[Isolation, IsolationFacts]
    now: Clock

    async def keep(self, subject: Subject, *, or_files: bool, lasting: bool = True) -> Snapshot:
        """See `layer.Keeper.keep`."""
        with _failing(f"machine {subject.machine} could not be kept"):
            name = subject.key.name
            found = await asyncio.to_thread(self.snapshots.read, name)
            if found is not None:
                return found.snapshot
            laps = [time.perf_counter()]
            machine = subject.record
            if machine is not None and self.machines.alive(machine):
                await self.machines.settled(machine.id)
            laps.append(time.perf_counter())
            lost = _MEMORY_LOST
            if machine is not None and self.machines.alive(machine):
                lost = await self._stop(name, machine, or_files, lasting)
            laps.append(time.perf_counter())
            try:
                return await self._take(subject, lost, laps)
            except BaseException:
                if machine is not None and machine.isolation == "runc":
                    self.machines.thaw(machine.id)
                raise

    async def _stop(self, name: str, machine: Machine, or_files: bool, lasting: bool) -> str:
        """Have a machine stand still: under runsc halted, with its memory written, under runc frozen. Why there is no
        memory, if there is none."""
        if not (lasting or or_files):
            raise MachineFailed(NOT_LASTING)
        await asyncio.to_thread(self._check_room, machine.id, machine if machine.isolation == "runsc" else None)
        await asyncio.to_thread(self.snapshots.begin, name)
        if machine.isolation == "runc":
            await self.machines.freeze(machine.id)
            return _MEMORY_LOST
        if not lasting:
            return NOT_LASTING
        try:
            await self.machines.halt(machine)
            await self.machines.write_memory(machine, self.snapshots.memory(name), self.snapshots.mark(name))
        except (RuntimeFailed, TimeoutError):
            if not self.machines.alive(machine):
                _log.exception("machine %s has died while its memory was written", machine.id)
            elif or_files:
                _log.exception("the memory of machine %s cannot be written: its files are kept", machine.id)
                return _NOT_WRITTEN
            else:
                await self.machines.rescue(machine)
                raise
        return _MEMORY_LOST

    def _check_room(self, machine: str, remembered: Machine | None) -> None:
        memory = self.machines.usage(remembered.id).memory_bytes if remembered else 0
        self._need(memory + self.disks.volume.size_of_copy(self.disks.path(machine)), "to keep this machine")

    def _need(self, more: int, what: str) -> None:
        if (free := self.disks.volume.free_bytes()) < more + SPARE_DISK_BYTES:
            raise NoSpace(f"The node's disks have {free >> 20} MiB left, too little {what}")

    async def _take(self, subject: Subject, why_lost: str, laps: list[float]) -> Snapshot:
        name = subject.key.name
        if subject.isolation == "runsc":
            await self.machines.stop(subject.machine)
        if not self.snapshots.begun(name):
            await asyncio.to_thread(self.snapshots.begin, name)
        laps.append(time.perf_counter())
        wanted = self._can_remember(subject.isolation)
        memory = wanted and await asyncio.to_thread(self.snapshots.written, name, boot_id())
        summing = self.snapshots.sum_memory if memory else self._without_memory
        sums, _ = await asyncio.gather(
            asyncio.to_thread(summing, name), asyncio.to_thread(self.snapshots.take_disk, name, subject.machine)
        )
        laps.append(time.perf_counter())
        stood_ms = int((laps[-1] - laps[0]) * 1000)
        lost = why_lost if wanted and not memory else None
        snapshot = await self._seal(subject, None, sums=sums, lost=lost, stood_ms=stood_ms)
        laps.append(time.perf_counter())
        _log.info("machine %s is kept: %s", subject.machine, told(laps, _LAPS))
        return snapshot

    def _can_remember(self, isolation: Isolation) -> bool:
        can = self.isolations.get(isolation)
        return isolation == "runsc" and can is not None and can.pause_keeps == "memory"

    async def _seal(
        self,
        subject: Subject,
        checkpoint: str | None,
        *,
        sums: dict[str, FileSum],
        lost: str | None,
        stood_ms: int,
    ) -> Snapshot:
        """Make whole what was taken: with memory where there are sums of it."""
        key = subject.key
        name = key.name if checkpoint is None else checkpoint_name(checkpoint, key.role)
        disk_bytes = await asyncio.to_thread(self.snapshots.disk_bytes, name)
        snapshot = Snapshot(
            sandbox=key.sandbox,
            epoch=key.epoch,
            role=key.role,
            isolation=subject.isolation,
            image=subject.image,
            digest=subject.digests["image"],
            keeps="memory" if sums else "files",
            lost=lost,
            bytes=disk_bytes + sum(one.bytes for one in sums.values()),
            taken_at=self.now(),
            stood_ms=stood_ms,
            checkpoint=checkpoint,
        )
        manifest = Manifest(
            snapshot=snapshot,
            guest=subject.digests["guest"],
            runtime=subject.digests["runtime"],
            processor=await asyncio.to_thread(hostfacts.processor_features),
            born_as=subject.machine,
            secret=subject.secret,
            memory=sums,
        )
        await asyncio.to_thread(self.snapshots.seal, name, manifest)
        return snapshot

    def _without_memory(self, name: str) -> dict[str, FileSum]:
        self.snapshots.drop_memory(name)
        return {}

    async def copy(self, subject: Subject, checkpoint: str, *, memory: bool) -> Snapshot:
        """See `layer.Keeper.copy`."""
        with _failing(f"machine {subject.machine} could not be copied"):
            name = checkpoint_name(checkpoint, subject.key.role)
            found = await asyncio.to_thread(self.snapshots.read, name)
            if found is not None:
                return found.snapshot
            machine = subject.record
            alive = machine is not None and self.machines.alive(machine)
            remembered = machine if memory and alive and self._can_remember(subject.isolation) else None
            await asyncio.to_thread(self._check_room, subject.machine, remembered)
            await asyncio.to_thread(self.snapshots.begin, name)
            await asyncio.to_thread(self.snapshots.flush)
            began = time.perf_counter()
            async with self._standing(machine if alive else None, halted=remembered is not None):
                if remembered is not None:
                    await self.machines.write_memory(remembered, self.snapshots.memory(name), self.snapshots.mark(name))
                await asyncio.to_thread(self.snapshots.take_disk, name, subject.machine)
            stood_ms = round((time.perf_counter() - began) * 1000)
            sums = await asyncio.to_thread(self.snapshots.sum_memory, name) if remembered else {}
            lost = _NO_MEMORY if memory and not sums else None
            snapshot = await self._seal(subject, checkpoint, sums=sums, lost=lost, stood_ms=stood_ms)
        _log.info("machine %s is copied; it stood still for %d ms", subject.machine, stood_ms)
        return snapshot

    @contextlib.asynccontextmanager
    async def _standing(self, machine: Machine | None, *, halted: bool) -> AsyncIterator[None]:
        """Within it a machine stands still: all of it, or but for its own kernel, which alone can tell its memory."""
        if machine is None:
            yield
            return
        if halted:
            await self.machines.halt(machine)
            try:
                yield
            finally:
                await self.machines.go_on(machine)
            return
        await self.machines.freeze(machine.id)
        try:
            yield
        finally:
            self.machines.thaw(machine.id)

    async def go_on(self, machine: Machine) -> None:
        """See `layer.Keeper.go_on`."""
        with _failing(f"machine {machine.id} does not go on"):
            await self.machines.rescue(machine)

    def kept(self) -> tuple[Snapshot, ...]:
        """See `layer.Keeper.kept`."""
        return tuple(manifest.snapshot for manifest in self.snapshots.all())

    def find(self, name: str) -> Snapshot | None:
        """See `layer.Keeper.find`."""
        with _unfit():
            manifest = self.snapshots.read(name)
        return None if manifest is None else manifest.snapshot

    async def revive(self, name: str, *, memory: bool) -> Revival:
        """See `layer.Keeper.revive`."""
        with _unfit():
            return await asyncio.to_thread(self._revive, name, memory)

    def _revive(self, name: str, with_memory: bool) -> Revival:
        manifest = self.snapshots.read(name)
        if manifest is None:
            raise Damaged("it is not there")
        kept = manifest.snapshot
        image = Image(kept.image, kept.digest, self.disks.images / kept.digest)
        runtime = f"{kept.isolation} {self.isolations[kept.isolation].version}"
        memory = self._memory(name, manifest, runtime) if with_memory and kept.keeps == "memory" else None
        if not image.root.is_dir():
            raise Damaged(f"its image {kept.digest} is gone")
        self._need(self.disks.volume.size_of_copy(self.snapshots.disk(name)), "to go on from this snapshot")
        self.snapshots.verify(name, manifest, memory=memory is not None)
        return Revival(
            image=image,
            digests={
                "image": kept.digest,
                "guest": manifest.guest if memory else self.guest_digest,
                "runtime": runtime,
            },
            origin=Origin(self.snapshots.disk(name), memory),
        )

    def _memory(self, name: str, manifest: Manifest, runtime: str) -> MemoryImage:
        if manifest.runtime != runtime:
            raise Damaged(f"its memory is of {manifest.runtime}, and this node has {runtime}")
        if missing := set(manifest.processor) - set(hostfacts.processor_features()):
            raise Damaged(f"its memory is of a processor that can {', '.join(sorted(missing)[:5])}, this one cannot")
        if not (self.guests / manifest.guest).is_dir():
            raise Damaged(f"its guest {manifest.guest} is gone")
        return MemoryImage(
            directory=self.snapshots.memory(name),
            guest=self.guests / manifest.guest,
            born_as=manifest.born_as,
            epoch=manifest.snapshot.epoch,
            secret=manifest.secret,
        )

    async def discard(self, sandbox: str, through: int, role: Role) -> int:
        """See `layer.Keeper.discard`."""
        return await asyncio.to_thread(self.snapshots.discard, sandbox, through, role)

    async def forget(self, checkpoint: str) -> bool:
        """See `layer.Keeper.forget`."""
        return await asyncio.to_thread(self.snapshots.forget, checkpoint)

    def bases(self, name: str) -> SnapshotBases:
        """See `layer.Keeper.bases`."""
        manifest = self._whole(name)
        return SnapshotBases(image=manifest.snapshot.digest, guest=manifest.guest if manifest.memory else None)

    def _whole(self, name: str) -> Manifest:
        with _unfit():
            manifest = self.snapshots.read(name)
            if manifest is None:
                raise Damaged("it is not there")
        return manifest

    def pack(self, name: str) -> AsyncGenerator[bytes, None]:
        """See `layer.Keeper.pack`."""
        manifest = self._whole(name)
        stream = packed(manifest, self.snapshots.memory(name), self.snapshots.disk(name), self.disks.volume)
        return _failing_each(name, stream)

    async def unpack(self, name: str, messages: AsyncIterable[bytes]) -> Snapshot:
        """See `layer.Keeper.unpack`."""
        there = await asyncio.to_thread(self._intact, name)
        if there is not None:
            return there
        with _failing(f"the snapshot {name} could not be written"):
            try:
                manifest = await unpacked(messages, partial(self._begin, name), self._spare_room(), self.disks.volume)
                await asyncio.to_thread(self._accept, name, manifest)
            except BaseException:
                await asyncio.shield(asyncio.to_thread(self.snapshots.clear, [name]))
                raise
        _log.info("the snapshot %s was brought here", name)
        return manifest.snapshot

    def _intact(self, name: str) -> Snapshot | None:
        try:
            manifest = self.snapshots.read(name)
            if manifest is not None:
                self.snapshots.verify(name, manifest)
                return manifest.snapshot
        except (Damaged, OSError) as error:
            _log.warning("the snapshot %s is written anew: %s", name, error)
        return None

    def _begin(self, name: str, manifest: Manifest) -> Path:
        if manifest.snapshot.name != name:
            raise Damaged("it is another one")
        self._need(manifest.snapshot.bytes, "for this snapshot")
        self.snapshots.begin(name)
        return self.snapshots.memory(name).parent

    def _spare_room(self) -> Callable[[int], None]:
        """Called with each number of bytes that was written: fails when the disks run full, of a lie too."""
        unseen = 0

        def wrote(count: int) -> None:
            nonlocal unseen
            unseen += count
            if unseen >= SPARE_DISK_BYTES // 4:
                unseen = 0
                if self.disks.volume.free_bytes() < SPARE_DISK_BYTES:
                    raise NoSpace("The node's disks have run full")

        return wrote

    def _accept(self, name: str, manifest: Manifest) -> None:
        self.snapshots.verify(name, manifest)
        self.snapshots.flush()
        self.snapshots.seal(name, manifest)

    async def halves(self) -> list[str]:
        """See `layer.Keeper.halves`."""
        return await asyncio.to_thread(self.snapshots.halves)

    async def clear(self, names: Collection[str]) -> int:
        """See `layer.Keeper.clear`."""
        return await asyncio.to_thread(self.snapshots.clear, names)


async def _failing_each(name: str, messages: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    with _failing(f"the snapshot {name} could not be read"):
        async with contextlib.aclosing(messages):
            async for message in messages:
                yield message


@contextlib.contextmanager
def _failing(what: str) -> Iterator[None]:
    try:
        yield
    except MachineFailed:
        raise
    except CannotReceive as error:
        raise Unfit(f"{what}: {error}") from error
    except (Damaged, RuntimeFailed, StreamFailed, OSError, TimeoutError) as error:
        if any(words in str(error) for words in _FULL):
            raise NoSpace(f"The node's disks have run full; {what}") from error
        raise MachineFailed(f"{what}: {error or type(error).__name__}") from error


@contextlib.contextmanager
def _unfit() -> Iterator[None]:
    try:
        yield
    except (Damaged, OSError) as error:
        raise Unfit(f"The snapshot cannot be gone on from: {error}") from error
