"""A node's service over whatever makes its machines: adoption first, then the long tasks that keep promises."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from boxkeep_server.model.machines import MAIN, Key, names_of
from boxkeep_server.model.node_api import ClaimState, LeakCount, Leaks, NodeFacts, Role, Snapshot, SnapshotBases
from boxkeep_server.node import adoption, refusals
from boxkeep_server.node.adoption import Findings, Plan
from boxkeep_server.node.bases import Bases
from boxkeep_server.node.berths import CALM_S, Berths
from boxkeep_server.node.checkpoints import Checkpoints
from boxkeep_server.node.claim_means import Means
from boxkeep_server.node.claims import Claims
from boxkeep_server.node.copies import Copies
from boxkeep_server.node.crew import Crew
from boxkeep_server.node.deaths import Deaths
from boxkeep_server.node.files import Files
from boxkeep_server.node.layer import Clock, Keeper, MachineFailed, Maker, Observer, Stock, Unfit
from boxkeep_server.node.ledger import Ledger
from boxkeep_server.node.metrics import Metrics
from boxkeep_server.node.pauses import Pauses
from boxkeep_server.node.pool import Kind, Pool
from boxkeep_server.node.room import SPARE_DISK_BYTES, Memory, Pressure, pressure
from boxkeep_server.node.watch import Hints

T = TypeVar("T")

_log = logging.getLogger(__name__)

_EXPIRE_S: Final = 0.25
_BEAT_S: Final = 2.5
_PRESSURE_S: Final = 1.0
_REFILL_S: Final = 0.25
_TIDY_S: Final = 5.0
_SWEEP_S: Final = 30.0
_PRUNE_S: Final = 600.0
_AFTER_END_S: Final = 4.0
_AT_ONCE: Final = 4
_PAUSES_S: Final = 10.0


@dataclass(frozen=True)
class World:
    """What a node's service is given: its machine layer, its clock, its dice, and what it is."""

    maker: Maker
    keeper: Keeper
    bases: Bases
    observer: Observer
    files: Files
    stock: Callable[[], Stock]
    leaks: Callable[[set[str]], Awaitable[Leaks]]
    memory: Callable[[], Memory]
    now: Clock
    uptime: Clock
    new_id: Callable[[], str]
    new_secret: Callable[[], str]
    boot_id: str
    node_id: str
    region: str
    version: str
    slots: int
    warm: Mapping[Kind, int]
    starts_at_once: int
    disk_limit: bool
    free_disk: Callable[[], int]
    calm_s: float = CALM_S


class Service:
    """One node. `adopt` comes first; then claims may be asked for while `run` runs."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._pressure = Pressure.CALM
        self.hints = Hints()
        self.metrics = Metrics()
        self.crew = Crew()
        self._ledger = Ledger(world.files.bindings, self.hints)
        berths = Berths(world.starts_at_once, world.calm_s)
        self.pool = Pool(
            world.maker,
            world.observer,
            world.files.marks,
            berths,
            stock=world.stock,
            wanted=world.warm,
            boot_id=world.boot_id,
            new_id=world.new_id,
            new_secret=world.new_secret,
        )
        self.deaths = Deaths(
            world.maker,
            world.observer,
            self._ledger,
            world.files.heartbeat,
            self.crew,
            boot_id=world.boot_id,
            now=world.now,
            uptime=world.uptime,
            count=self.metrics.died,
        )
        self.claims = Claims(
            Means(
                maker=world.maker,
                keeper=world.keeper,
                observer=world.observer,
                files=world.files.bindings,
                ledger=self._ledger,
                released=world.files.released,
                pool=self.pool,
                berths=berths,
                crew=self.crew,
                admission=self,
                meters=self.metrics,
                stock=world.stock,
                boot_id=world.boot_id,
                now=world.now,
                uptime=world.uptime,
                new_id=world.new_id,
                new_secret=world.new_secret,
                watch=self.deaths.watch,
            )
        )
        self.pauses = Pauses(
            maker=world.maker,
            observer=world.observer,
            keeper=world.keeper,
            ledger=self._ledger,
            crew=self.crew,
            release=self.claims.release,
            watch=self.deaths.watch,
            meters=self.metrics,
            now=world.now,
        )

        self.checkpoints = Checkpoints(
            maker=world.maker,
            observer=world.observer,
            keeper=world.keeper,
            ledger=self._ledger,
            crew=self.crew,
            watch=self.deaths.watch,
            meters=self.metrics,
        )
        self.bases = world.bases
        self.copies = Copies(world.keeper, self.crew)

    def admits(self, taken: int) -> bool:
        """Whether this node takes another sandbox, `taken` slots being used."""
        return taken < self._world.slots and self._pressure < Pressure.REFUSE and self._disks_have_room()

    async def adopt(self) -> Plan:
        """Go on from what the process before this one has left. What cannot be removed now is left to `sweep_once`."""
        plan = adoption.plan(self._findings())
        world = self._world
        for binding in plan.rewrite:
            world.files.bindings.save(binding)
        for machine in plan.end:
            await world.maker.end(machine)
        for machine in plan.unmark:
            world.files.marks.remove(machine)
        for mark in plan.warm:
            if (machine_found := world.observer.read(mark.machine)) is not None:
                self.pool.adopt(mark, machine_found)
        for binding in plan.hold:
            held = self._ledger.enter(binding, world.observer.read(binding.machine))
            if held.binding.state is ClaimState.RUNNING:
                self.deaths.watch(held)
        await self._each([*plan.remove], self._destroy)
        for machine in plan.unbind:
            world.files.bindings.remove(machine)
        await self._each([*plan.finish], self.claims.finish_release)
        self.pauses.go_on()
        self.checkpoints.go_on()
        return plan

    async def run(self) -> None:
        """Keep the node's promises until cancelled. A bug in any of the tasks ends it, loudly."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.crew.faulted())
                tasks.create_task(_every(_EXPIRE_S, self.deaths.expire_once))
                tasks.create_task(_every(_BEAT_S, self.deaths.beat_once))
                tasks.create_task(_every(_REFILL_S, self.refill_once))
                tasks.create_task(_every(_TIDY_S, self.pool.tidy_once))
                tasks.create_task(_every(_SWEEP_S, self.sweep_once))
                tasks.create_task(_every(_PRUNE_S, self._prune_once))
                tasks.create_task(_every(_PRESSURE_S, self.relieve_once))
        finally:
            await self.pauses.settled(_PAUSES_S)
            await self.crew.dismiss()

    async def refill_once(self) -> int:
        """Make at most one warm machine; how many were made."""
        return await self.pool.refill_once(self._room_for_warm)

    async def relieve_once(self) -> int:
        """Do what memory calls for: empty the pool, stop admitting, end the largest; how many machines went."""
        now = pressure(self._world.memory())
        if now != self._pressure:
            _log.warning("memory pressure: %s", now.name.lower())
        self._pressure = now
        gone = await self.pool.shed() if now >= Pressure.DRAIN else 0
        if now >= Pressure.END and (ended := await self.deaths.end_largest_once()):
            gone += ended
            await asyncio.sleep(_AFTER_END_S)  # what was ended must be felt before another is
        return gone

    async def sweep_once(self) -> int:
        """Remove machines that belong to nobody, as a removal that failed leaves them; how many."""
        strays = [machine for machine in self._world.observer.found() if machine not in self.owned()]
        await self._each(strays, self._destroy)
        async with self.copies.sweeping:
            pauses, checkpoints = await self._stray_halves()
            halves = await self._world.keeper.clear(pauses) + await self.checkpoints.clear(checkpoints)
        return len(strays) + halves

    async def discard(self, sandbox: str, through: int, role: Role = MAIN) -> int:
        """Remove every snapshot that a pause of a sandbox's role left up to that epoch; how many. May be repeated."""

        def is_of_role(name: str) -> bool:
            key = Key.named(name)
            return key is not None and (key.sandbox, key.role) == (sandbox, role)

        await self.copies.stop(is_of_role)
        return await self._world.keeper.discard(sandbox, through, role)

    async def forget(self, checkpoint: str) -> bool:
        """Remove what is kept of all machines at a checkpoint; whether there was anything. May be repeated."""
        await self.copies.stop(names_of(checkpoint).__contains__)
        return await self._world.keeper.forget(checkpoint)

    def bases_of(self, name: str) -> SnapshotBases:
        """What a snapshot is made over.

        Raises:
            Unfit: there is no whole one.
        """
        try:
            return self._world.keeper.bases(name)
        except Unfit as error:
            raise refusals.Unfit(str(error)) from error

    def snapshots(self) -> tuple[Snapshot, ...]:
        """Every snapshot."""
        return self._world.keeper.kept()

    def owned(self) -> set[str]:
        """The ids of every machine that somebody answers for."""
        return self._ledger.machines() | self.pool.owned() | self.claims.on_their_way()

    async def leaks(self) -> Leaks:
        """What belongs to nobody."""
        found = await self._world.leaks(self.owned())
        pauses, checkpoints = await self._stray_halves()
        return Leaks(leaks=(*found.leaks, LeakCount(kind="snapshots", items=(*pauses, *checkpoints))))

    def facts(self) -> NodeFacts:
        """What this node is and can do, and how full it is."""
        world, stock = self._world, self._world.stock()
        return NodeFacts(
            node_id=world.node_id,
            boot_id=world.boot_id,
            region=world.region,
            version=world.version,
            isolations=dict(stock.isolations),
            default_isolation=next(iter(stock.isolations)),
            images={name: image.digest for name, image in stock.images.items()},
            slots=world.slots,
            slots_used=self.claims.taken(),
            warm=self.pool.counts(),
            disk_limit=world.disk_limit,
            admitting=self.admits(self.claims.taken()),
        )

    async def _stray_halves(self) -> tuple[list[str], list[str]]:
        """Halves that nobody brings to an end: of pauses of what is not bound any more, since one of what is bound may
        be under way, now or at any moment; and of checkpoints that are not being taken. What comes in is none."""
        halves = self.copies.strays(await self._world.keeper.halves())
        keys = {name: key for name in halves if (key := Key.named(name)) is not None}
        pauses = [name for name, key in keys.items() if self._ledger.get(key) is None]
        return pauses, self.checkpoints.strays([name for name in halves if name not in keys])

    def _disks_have_room(self) -> bool:
        return self._world.free_disk() >= SPARE_DISK_BYTES

    def _room_for_warm(self) -> bool:
        machines = self.claims.taken() + len(self.pool.owned())
        return self._pressure is Pressure.CALM and self.admits(machines)

    def _findings(self) -> Findings:
        world, files = self._world, self._world.files
        files.released.load(world.now())
        bindings, marks = files.bindings.load(), files.marks.load()
        found = world.observer.found()
        named = {*found, *(one.machine for one in bindings), *(one.machine for one in marks)}
        machines = {machine: world.observer.read(machine) for machine in named}
        uses = {machine: world.observer.use(machine) for machine in found}
        stock = world.stock()
        return Findings(
            boot_id=world.boot_id,
            now=world.now(),
            bindings=bindings,
            released=frozenset(one.machine for one in bindings if one.key in files.released),
            marks=marks,
            current={one.machine: stock.digests(one.image, one.isolation) for one in marks},
            found=found,
            alive=frozenset(
                machine for machine, one in machines.items() if one is not None and world.observer.alive(one)
            ),
            with_disk=frozenset(one.machine for one in bindings if world.observer.has_disk(one.machine)),
            oom_kills={machine: use.oom_kills for machine, use in uses.items() if use is not None},
            beat=files.heartbeat.last(),
        )

    async def _destroy(self, machine: str) -> None:
        await self._world.maker.destroy(machine)

    async def _each(self, things: Sequence[T], remove: Callable[[T], Awaitable[None]]) -> None:
        """Remove some at a time; one that does not go does not keep the others."""
        places = asyncio.Semaphore(_AT_ONCE)

        async def one(thing: T) -> None:
            async with places:
                try:
                    await remove(thing)
                except MachineFailed as error:
                    _log.warning("not removed yet: %s", error)

        await asyncio.gather(*map(one, things))

    async def _prune_once(self) -> int:
        self._world.files.released.prune(self._world.now())
        return 0


async def _every(seconds: float, work: Callable[[], Awaitable[int]]) -> None:
    while True:
        await work()
        await asyncio.sleep(seconds)
