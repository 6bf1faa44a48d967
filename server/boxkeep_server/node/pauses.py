"""Pauses: a bound machine is stopped and kept as a snapshot, and then it is released like any other."""

import logging
import time
from asyncio import Task, shield, wait
from collections.abc import Awaitable, Callable
from typing import Protocol

from boxkeep_server.model.machines import Key
from boxkeep_server.model.node_api import ClaimState, DeathReason, Release, Snapshot
from boxkeep_server.node import refusals
from boxkeep_server.node.crew import Crew
from boxkeep_server.node.layer import Busy, Clock, Keeper, MachineFailed, Maker, NoSpace, Observer, Unfit
from boxkeep_server.node.ledger import Held, Ledger, subject_of

_log = logging.getLogger(__name__)


class Meters(Protocol):
    """Counts what pauses do."""

    def paused(self, keeps: str, seconds: float) -> None:
        """A machine was kept."""


class Pauses:
    """The pauses of one node. `release` ends a claim, `watch` notices when a machine ends."""

    def __init__(
        self,
        *,
        maker: Maker,
        observer: Observer,
        keeper: Keeper,
        ledger: Ledger,
        crew: Crew,
        release: Callable[[Key], Awaitable[Release]],
        watch: Callable[[Held], None],
        meters: Meters,
        now: Clock,
    ) -> None:
        self._maker = maker
        self._observer = observer
        self._keeper = keeper
        self._ledger = ledger
        self._crew = crew
        self._release = release
        self._watch = watch
        self._meters = meters
        self._now = now
        self._under_way: dict[Key, Task[Snapshot]] = {}

    async def pause(self, key: Key, *, if_idle: bool = False, or_files: bool = False) -> Snapshot:
        """Keep a claimed machine and release it. Again for what was paused: the same snapshot.

        Raises:
            NoSuchClaim, ClaimIsDead, NotYet: there is nothing that could be kept.
            Busy, NoSpace: the machine goes on.
            Broken: it did not come about; the machine goes on if it lives, else it is to be asked again.
        """
        return await shield(self.begin(key, if_idle=if_idle, or_files=or_files))

    def begin(self, key: Key, *, if_idle: bool = False, or_files: bool = False) -> "Task[Snapshot]":
        """Start what `pause` waits for, unless it is under way."""
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = self._crew.start(self._pause(key, if_idle, or_files))
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
        return task

    def go_on(self) -> None:
        """Go on with the pauses that the process before this one began."""
        for held in self._ledger:
            if held.binding.state is ClaimState.PAUSING:
                self.begin(held.key)

    async def settled(self, within_s: float) -> None:
        """Return when none is under way, or the time is up."""
        if self._under_way:
            await wait(set(self._under_way.values()), timeout=within_s)

    async def _pause(self, key: Key, if_idle: bool, or_files: bool) -> Snapshot:
        held = self._ledger.get(key)
        if held is None:
            return self._kept_before(key)
        async with held.turn:
            if held.releasing:
                raise refusals.NoSuchClaim("The machine is being released")
            began = time.perf_counter()
            snapshot = await self._keep(held, if_idle, or_files)
            self._meters.paused(snapshot.keeps, time.perf_counter() - began)
        await self._release(key)
        return snapshot

    def _kept_before(self, key: Key) -> Snapshot:
        try:
            snapshot = self._keeper.find(key.name)
        except Unfit as error:
            raise refusals.Unfit(str(error)) from error
        if snapshot is None:
            raise refusals.NoSuchClaim("No such claim")
        return snapshot

    async def _keep(self, held: Held, if_idle: bool, or_files: bool) -> Snapshot:
        lasting = await self._halted(held, if_idle)
        try:
            return await self._keeper.keep(subject_of(held), or_files=or_files, lasting=lasting)
        except MachineFailed as error:
            _log.warning("sandbox %s is not paused: %s", held.key.sandbox, error)
            await self._go_on(held)
            kind = refusals.NoSpace if isinstance(error, NoSpace) else refusals.Broken
            raise kind(str(error)) from error

    async def _halted(self, held: Held, if_idle: bool) -> bool:
        """Have a machine that runs be one that is pausing; whether its memory would be any good, as far as is known."""
        match held.binding.state:
            case ClaimState.DEAD:
                raise refusals.ClaimIsDead("The machine is dead")
            case ClaimState.STARTING | ClaimState.KEEPING:
                raise refusals.NotYet("The machine is not handed over yet")
            case ClaimState.PAUSING:
                return True
        lasting = await self._still(held, if_idle)
        self._ledger.change(held, state=ClaimState.PAUSING)
        return lasting

    async def _still(self, held: Held, if_idle: bool) -> bool:
        if held.machine is None:
            return True
        try:
            return await self._maker.still(held.machine, held.key.epoch, held.binding.secret, if_idle=if_idle)
        except Busy as busy:
            raise refusals.Busy(str(busy)) from busy
        except MachineFailed as error:
            if if_idle:
                raise refusals.Broken(str(error)) from error
            _log.warning("machine %s is kept though it does not answer: %s", held.machine.id, error)
            return True

    async def _go_on(self, held: Held) -> None:
        """A machine that lives is as before; one that does not is still to be kept, unless its disk is gone."""
        machine = held.machine
        if machine is not None and self._observer.alive(machine):
            try:
                await self._maker.unstill(machine, held.key.epoch, held.binding.secret)
            except MachineFailed as error:
                _log.warning("machine %s may take no calls: %s", machine.id, error)
            self._ledger.change(held, state=ClaimState.RUNNING)
            self._watch(held)
        elif not self._observer.has_disk(held.binding.machine):
            self._ledger.change(held, state=ClaimState.DEAD, reason=DeathReason.DISK_LOST, died_at=self._now())
