"""Claims: a machine is bound to a sandbox's epoch once, handed over, and released without a trace."""

import asyncio
import contextlib
import ipaddress
import logging
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from boxkeep_server.model.machines import Key
from boxkeep_server.model.node_api import Claim, ClaimState, ClaimWish, DeathReason, Release, Snapshot
from boxkeep_server.node import durable, refusals
from boxkeep_server.node.bindings import Binding
from boxkeep_server.node.claim_means import Means
from boxkeep_server.node.layer import (
    Birth,
    MachineFailed,
    MachineLate,
    NoSpace,
    Revival,
    Stock,
    Tenancy,
    Unfit,
)
from boxkeep_server.node.ledger import Held, shown, told
from boxkeep_server.node.pool import Kind
from boxkeep_server.node.records import Machine

_log = logging.getLogger(__name__)

CLAIM_S: Final = 28.0
"""How long a claim may take; the page promises 30."""
REVIVAL_S: Final = 55.0
"""The same where a machine goes on from a snapshot, which may have to be copied; the page promises 60."""
_REMEMBERED: Final = 256


@dataclass(eq=False)
class _Effort:
    """A claim being brought about, with `machine`. `waiting`: nothing of it is there yet."""

    deadline: float
    task: asyncio.Task[Claim] = field(init=False)
    machine: str | None = None
    waiting: bool = False
    unwanted: bool = False

    def give_up(self) -> None:
        """Have it end without a claim, as soon as that leaves nothing behind."""
        self.unwanted = True
        if self.waiting:
            self.task.cancel()

    def check(self) -> None:
        """Raise _GivenUp if it shall end."""
        if self.unwanted:
            raise _GivenUp


class _GivenUp(Exception):
    """Nobody wants the claim any more."""


class Claims:
    """The claims of one node."""

    def __init__(self, means: Means) -> None:
        self._do = means
        self._efforts: dict[Key, _Effort] = {}
        self._releases: dict[Key, asyncio.Task[Release]] = {}
        self._remains: OrderedDict[Key, Release] = OrderedDict()

    async def claim(self, wish: ClaimWish) -> Claim:
        """Bind a machine and hand it over. Again for the same sandbox, epoch and role: the same one.

        Raises:
            EpochReleased, OlderEpoch, Unsupported, Malformed, NoRoom: nothing was done.
            NotYet, Broken: it did not come about in time, or failed; nothing is left of it.
        """
        key = Key.of(wish)
        self._refuse_late(key)
        held, effort = self._do.ledger.get(key), self._efforts.get(key)
        if effort is None:
            if held is not None and held.binding.state is not ClaimState.STARTING:
                return self.get(key)
            self._check(wish)
            if held is None:
                self._refuse_full()
            effort = self._begin(wish)
        try:
            async with asyncio.timeout_at(effort.deadline):
                return await asyncio.shield(effort.task)
        except TimeoutError:
            effort.give_up()
            raise refusals.NotYet("The machine did not come up in time") from None

    def get(self, key: Key) -> Claim:
        """One claim, with what its machine uses now.

        Raises:
            NoSuchClaim
        """
        held = self._held(key)
        if not held.dead:
            held.use = self._do.observer.use(held.binding.machine) or held.use
        return shown(held)

    def list(self) -> tuple[Claim, ...]:
        """Every claim, with what its machine used a moment ago."""
        return tuple(shown(held) for held in self._do.ledger)

    def change(self, key: Key, not_after: int) -> Claim:
        """Set when the node ends a machine.

        Raises:
            NoSuchClaim, EpochReleased, ClaimIsDead
        """
        if key in self._do.released:
            raise refusals.EpochReleased("This epoch was released already")
        held = self._held(key)
        if held.dead:
            raise refusals.ClaimIsDead("The machine is dead")
        ends_at = self._do.uptime() + not_after - self._do.now()
        self._do.ledger.change(held, not_after=not_after, ends_at=ends_at)
        return shown(held)

    async def release(self, key: Key) -> Release:
        """Remove all that there is of a claim and shut the door behind it. May be repeated, for one never made too.

        Raises:
            Broken: something of the machine does not go; to be asked again.
        """
        task = self._releases.get(key)
        if task is None:
            task = self._releases[key] = self._do.crew.start(self._release(key))
            task.add_done_callback(lambda _: self._releases.pop(key, None))
        return await asyncio.shield(task)

    def taken(self) -> int:
        """How many slots are used: by claims that are not dead, and by those on their way."""
        living = {held.key for held in self._do.ledger if not held.dead}
        return len(living | set(self._efforts))

    def on_their_way(self) -> set[str]:
        """The ids of machines that are being bound at this moment."""
        return {effort.machine for effort in self._efforts.values() if effort.machine is not None}

    def remember(self, key: Key, remains: Release) -> None:
        """Keep what is left to say of a claim for who asks again."""
        self._remains[key] = remains
        while len(self._remains) > _REMEMBERED:
            self._remains.popitem(last=False)

    async def finish_release(self, binding: Binding) -> None:
        """Go on with a release that the process before this one began.

        Raises:
            MachineFailed
        """
        await self._remove(Held(binding, self._do.observer.read(binding.machine)))

    def _held(self, key: Key) -> Held:
        held = self._do.ledger.get(key)
        if held is None:
            raise refusals.NoSuchClaim("No such claim")
        return held

    def _refuse_late(self, key: Key) -> None:
        if key in self._do.released or key in self._releases:
            raise refusals.EpochReleased("This epoch was released already")
        if self._do.ledger.latest_epoch(key.sandbox, key.role) > key.epoch:
            raise refusals.OlderEpoch("A later epoch of this sandbox is bound here")

    def _check(self, wish: ClaimWish) -> None:
        stock = self._do.stock()
        if wish.not_after <= self._do.now():
            raise refusals.Malformed("notAfter is over")
        if wish.origin is not None:
            self._check_snapshot(wish, stock)
        elif stock.digests(wish.image, _kind(wish, stock).isolation) is None:
            raise refusals.Unsupported(f"This node has no {wish.image} with that isolation")
        for network in wish.network.allow or ():
            try:
                ipaddress.IPv4Network(network)
            except ValueError:
                raise refusals.Malformed(f"network.allow: not an IPv4 network: {network!r}") from None

    def _check_snapshot(self, wish: ClaimWish, stock: Stock) -> None:
        snapshot = self._snapshot(wish)
        if snapshot is None:
            raise refusals.Unfit("There is no such snapshot on this node")
        if snapshot.isolation not in stock.isolations:
            raise refusals.Unsupported(f"This node has no {snapshot.isolation} any more")
        if (snapshot.image, snapshot.isolation) != (wish.image, wish.isolation):
            raise refusals.Malformed("The snapshot is of another image or isolation")

    def _snapshot(self, wish: ClaimWish) -> Snapshot | None:
        try:
            return None if wish.origin is None else self._do.keeper.find(wish.origin)
        except Unfit as error:
            raise refusals.Unfit(str(error)) from error

    def _refuse_full(self) -> None:
        if not self._do.admission.admits(self.taken()):
            raise refusals.NoRoom("No room for another machine now")

    def _begin(self, wish: ClaimWish) -> _Effort:
        key = Key.of(wish)
        self._do.berths.called()
        effort = self._efforts[key] = _Effort(asyncio.get_running_loop().time() + _allowed_s(wish))
        effort.task = self._do.crew.start(self._bring_about(wish, effort))
        effort.task.add_done_callback(lambda _: self._efforts.pop(key, None))
        return effort

    async def _bring_about(self, wish: ClaimWish, effort: _Effort) -> Claim:
        began = time.perf_counter()
        kind = _kind(wish, self._do.stock())
        try:
            held, warm = await self._have(wish, kind, effort)
        except _GivenUp:
            raise refusals.NotYet("The claim was given up") from None
        except asyncio.CancelledError:
            if effort.unwanted:
                raise refusals.NotYet("The claim was given up") from None
            raise
        except Unfit as unfit:
            self._do.meters.failed(str(kind))
            raise refusals.Unfit(str(unfit)) from unfit
        except NoSpace as full:
            self._do.meters.failed(str(kind))
            _log.warning("claim of sandbox %s: %s", wish.sandbox, full)
            raise refusals.NoRoom(f"No room for another machine now: {full}") from full
        except MachineLate as late:
            self._do.meters.failed(str(kind))
            _log.warning("claim of sandbox %s: %s", wish.sandbox, late)
            raise refusals.NotYet("The machine did not come up in time") from late
        except MachineFailed as error:
            self._do.meters.failed(str(kind))
            _log.warning("claim of sandbox %s failed: %s", wish.sandbox, error)
            raise refusals.Broken(f"The machine did not come up: {error}") from error
        self._do.meters.claimed(str(kind), warm, time.perf_counter() - began)
        return shown(held)

    async def _have(self, wish: ClaimWish, kind: Kind, effort: _Effort) -> tuple[Held, bool]:
        """A machine handed over, and whether it was up already. What was up may fail us once; a new one may not."""
        held = self._do.ledger.get(Key.of(wish))
        if held is None and wish.origin is None and (machine := self._do.pool.take(kind)):
            held = await self._bind(wish, kind, machine.id, effort, self._digests(kind))
            held.machine = machine
            self._do.pool.unmark(machine.id)
        if held is not None:
            with contextlib.suppress(MachineFailed):
                await self._hand_over(held, wish, effort)
                return held, True
        effort.waiting = True
        async with self._do.berths.taken():
            effort.waiting = False
            effort.check()
            await self._make_way()
            revival = await self._revival(wish)
            digests = self._digests(kind) if revival is None else revival.digests
            held = await self._bind(wish, kind, self._do.new_id(), effort, digests)
            await self._hand_over(held, wish, effort, revival)
        return held, False

    async def _revival(self, wish: ClaimWish) -> Revival | None:
        return None if wish.origin is None else await self._do.keeper.revive(wish.origin, memory=wish.memory)

    def _digests(self, kind: Kind) -> Mapping[str, str]:
        digests = self._do.stock().digests(kind.image, kind.isolation)
        if digests is None:
            raise MachineFailed(f"the image {kind.image} is gone")
        return digests

    async def _make_way(self) -> None:
        """A warm machine of another kind goes where the slots would not hold it and the new one."""
        warm = len(self._do.pool.owned())
        if warm and not self._do.admission.admits(self.taken() - 1 + warm):
            await self._do.pool.shed(1)

    async def _bind(
        self, wish: ClaimWish, kind: Kind, machine: str, effort: _Effort, digests: Mapping[str, str]
    ) -> Held:
        effort.machine = machine
        now = self._do.now()
        binding = Binding(
            machine=machine,
            sandbox=wish.sandbox,
            epoch=wish.epoch,
            role=wish.role,
            image=kind.image,
            isolation=kind.isolation,
            digests=dict(digests),
            boot_id=self._do.boot_id,
            secret=self._do.new_secret(),
            claimed_at=now,
            not_after=wish.not_after,
            ends_at=self._do.uptime() + wish.not_after - now,
            last_seen_at=now,
        )
        try:
            await asyncio.to_thread(self._do.files.bind, binding)
        except OSError as error:
            if error.errno not in durable.FULL:
                raise
            raise NoSpace(f"the binding cannot be written: {error}") from error
        return self._do.ledger.enter(binding)

    async def _hand_over(self, held: Held, wish: ClaimWish, effort: _Effort, revival: Revival | None = None) -> None:
        """Bring a bound machine to `running`; where that fails, nothing is left of it."""
        try:
            machine = held.machine or await self._start(held, wish, revival)
            effort.check()
            await self._do.maker.hand_over(
                machine,
                Tenancy(
                    epoch=wish.epoch,
                    secret=held.binding.secret,
                    hostname=wish.hostname,
                    network=wish.network,
                    env=wish.env,
                    resumed=wish.origin is not None,
                    forked=wish.fork,
                ),
            )
            effort.check()
        except (MachineFailed, _GivenUp):
            await self._undo(held)
            raise
        held.machine = machine
        self._do.ledger.change(
            held,
            state=ClaimState.RUNNING,
            address=machine.address,
            port=machine.port,
            last_seen_at=self._do.now(),
        )
        self._do.watch(held)

    async def _start(self, held: Held, wish: ClaimWish, revival: Revival | None) -> Machine:
        binding = held.binding
        image = self._do.stock().images.get(binding.image) if revival is None else revival.image
        if image is None:
            raise MachineFailed(f"the image {binding.image} is gone")
        return await self._do.maker.start(
            Birth(
                machine=binding.machine,
                image=image,
                isolation=binding.isolation,
                hostname=wish.hostname,
                secret=self._do.new_secret(),
                origin=None if revival is None else revival.origin,
            )
        )

    async def _undo(self, held: Held) -> None:
        held.releasing = True
        try:
            await self._do.maker.destroy(held.binding.machine)
        except MachineFailed as error:
            _log.warning("what failed to start cannot be removed: %s", error)
            held.releasing = False
            self._do.ledger.change(held, state=ClaimState.DEAD, reason=DeathReason.BOOT_FAILED, died_at=self._do.now())
            raise refusals.Broken(f"The machine did not come up and does not go: {error}") from error
        self._do.ledger.remove(held)

    async def _release(self, key: Key) -> Release:
        began = time.perf_counter()
        noted = await self._note_release(key)
        if effort := self._efforts.get(key):
            effort.give_up()
            await asyncio.wait({effort.task})
        held = self._do.ledger.get(key)
        if held is not None:
            try:
                async with held.turn:
                    await self._remove(held)
            except MachineFailed as error:
                raise refusals.Broken(f"The machine does not go: {error}") from error
            self._do.meters.released(time.perf_counter() - began)
        if not noted and not await self._note_release(key):
            raise refusals.NoSpace("The machine is gone, and there is no room to write down that it was released")
        return self._remains.get(key, Release())

    async def _note_release(self, key: Key) -> bool:
        """Shut the door behind a claim; False where there is no room to, as there may be once its machine is gone."""
        try:
            if key not in self._do.released:
                await asyncio.to_thread(self._do.released.note, key, self._do.now())
        except OSError as error:
            if error.errno not in durable.FULL:
                raise
            return False
        return True

    async def _remove(self, held: Held) -> None:
        held.releasing = True
        alive = held.machine is not None and not held.dead and self._do.observer.alive(held.machine)
        words = await self._do.maker.destroy(held.binding.machine)
        self.remember(
            held.key,
            Release(
                last_seen_at=self._do.now() if alive else held.binding.last_seen_at,
                died_at=held.binding.died_at,
                reason=held.binding.reason,
                tails=told(words),
            ),
        )
        self._do.ledger.remove(held)


def _allowed_s(wish: ClaimWish) -> float:
    return CLAIM_S if wish.origin is None else REVIVAL_S


def _kind(wish: ClaimWish, stock: Stock) -> Kind:
    if wish.isolation is not None:
        return Kind(wish.image, wish.isolation)
    return Kind(wish.image, next(iter(stock.isolations)))
