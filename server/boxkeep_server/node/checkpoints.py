"""Checkpoints: what there is of a bound machine is kept under a name of its own, and the machine goes on."""

import logging
from asyncio import Task, shield, wait
from collections.abc import Callable, Collection
from typing import Protocol

from boxkeep_server.model.machines import Key
from boxkeep_server.model.node_api import ClaimState, Snapshot, checkpoint_name
from boxkeep_server.node import refusals
from boxkeep_server.node.crew import Crew
from boxkeep_server.node.layer import NOT_LASTING, Keeper, MachineFailed, Maker, NoSpace, Observer, Unfit
from boxkeep_server.node.ledger import Held, Ledger, subject_of
from boxkeep_server.node.records import Machine

_log = logging.getLogger(__name__)


class Meters(Protocol):
    """Counts what checkpoints do."""

    def checkpointed(self, keeps: str, seconds: float) -> None:
        """A machine was kept, and stood still for so long."""


class Checkpoints:
    """The checkpoints of one node. `watch` notices when a machine ends."""

    def __init__(
        self,
        *,
        maker: Maker,
        observer: Observer,
        keeper: Keeper,
        ledger: Ledger,
        crew: Crew,
        watch: Callable[[Held], None],
        meters: Meters,
    ) -> None:
        self._maker = maker
        self._observer = observer
        self._keeper = keeper
        self._ledger = ledger
        self._crew = crew
        self._watch = watch
        self._meters = meters
        self._under_way: dict[str, Task[Snapshot]] = {}
        self._clearing: set[Task[int]] = set()

    async def take(self, key: Key, checkpoint: str, *, memory: bool) -> Snapshot:
        """Keep what a claimed machine is now. Again for the same checkpoint and role: the same snapshot.

        Of a dead machine, whose disk is there yet, its files.

        Raises:
            NoSuchClaim, NotYet, Unfit: there is nothing that could be kept.
            NoSpace, Broken: it did not come about; the machine goes on.
        """
        name = checkpoint_name(checkpoint, key.role)
        task = self._under_way.get(name)
        if task is None:
            task = self._under_way[name] = self._crew.start(self._take(key, checkpoint, memory))
            task.add_done_callback(lambda _: self._under_way.pop(name, None))
        return await shield(task)

    async def clear(self, names: Collection[str]) -> int:
        """Remove halves of checkpoints that nobody is taking; how many."""
        strays = [name for name in names if name not in self._under_way]
        if not strays:
            return 0
        task = self._crew.start(self._keeper.clear(strays))
        self._clearing.add(task)
        task.add_done_callback(self._clearing.discard)
        return await shield(task)

    def strays(self, halves: Collection[str]) -> list[str]:
        """Those of these halves that nobody is taking."""
        return [name for name in halves if name not in self._under_way]

    def go_on(self) -> None:
        """Have machines run that the process before this one left standing."""
        for held in self._ledger:
            if held.binding.state is ClaimState.KEEPING:
                self._crew.start(self._go_on(held))

    async def _take(self, key: Key, checkpoint: str, memory: bool) -> Snapshot:
        if self._clearing:
            await wait(set(self._clearing))
        found = self._kept_before(checkpoint_name(checkpoint, key.role))
        if found is not None:
            return found
        held = self._ledger.get(key)
        if held is None:
            raise refusals.NoSuchClaim("No such claim")
        async with held.turn:
            if held.releasing:
                raise refusals.NoSuchClaim("The machine is being released")
            try:
                snapshot = await self._keep(held, checkpoint, memory)
            except MachineFailed as error:
                _log.warning("no checkpoint of sandbox %s: %s", key.sandbox, error)
                kind = refusals.NoSpace if isinstance(error, NoSpace) else refusals.Broken
                raise kind(str(error)) from error
        self._meters.checkpointed(snapshot.keeps, snapshot.stood_ms / 1000)
        return snapshot

    def _kept_before(self, name: str) -> Snapshot | None:
        try:
            return self._keeper.find(name)
        except Unfit as error:
            raise refusals.Unfit(str(error)) from error

    async def _keep(self, held: Held, checkpoint: str, memory: bool) -> Snapshot:
        machine = held.machine
        match held.binding.state:
            case ClaimState.DEAD:
                if not self._observer.has_disk(held.binding.machine):
                    raise refusals.NoSuchClaim("The machine is gone")
                return await self._keeper.copy(subject_of(held), checkpoint, memory=False)
            case ClaimState.RUNNING if machine is not None:
                return await self._keep_running(held, machine, checkpoint, memory)
        raise refusals.NotYet("The machine is not handed over yet")

    async def _keep_running(self, held: Held, machine: Machine, checkpoint: str, memory: bool) -> Snapshot:
        epoch, secret = held.key.epoch, held.binding.secret
        closed = memory and held.binding.isolation == "runsc"
        self._ledger.change(held, state=ClaimState.KEEPING)
        try:
            if closed:
                if not await self._maker.still(machine, epoch, secret, if_idle=False):
                    raise MachineFailed(NOT_LASTING)
            else:
                await self._flush(held, machine)
            return await self._keeper.copy(subject_of(held), checkpoint, memory=memory)
        finally:
            await self._open(held, machine, closed=closed)

    async def _flush(self, held: Held, machine: Machine) -> None:
        """A guest that does not answer has lost what it did not write: it must not keep others from what it wrote."""
        try:
            await self._maker.flush(machine, held.key.epoch, held.binding.secret)
        except MachineFailed as error:
            _log.warning("machine %s is kept without flushing: %s", machine.id, error)

    async def _go_on(self, held: Held) -> None:
        async with held.turn:
            if held.machine is None or held.releasing or held.binding.state is not ClaimState.KEEPING:
                return
            try:
                await self._keeper.go_on(held.machine)
            except MachineFailed:
                _log.exception("machine %s stands still and cannot be had to go on: it is ended", held.machine.id)
                await self._maker.end(held.machine.id)
            await self._open(held, held.machine, closed=True)
            self._watch(held)

    async def _open(self, held: Held, machine: Machine, *, closed: bool) -> None:
        """As before, its gate open, unless it has died, which is noticed by those who watch it."""
        if closed and self._observer.alive(machine):
            try:
                await self._maker.unstill(machine, held.key.epoch, held.binding.secret)
            except MachineFailed as error:
                _log.warning("machine %s may take no calls: %s", machine.id, error)
        if held.binding.state is ClaimState.KEEPING:
            self._ledger.change(held, state=ClaimState.RUNNING)
