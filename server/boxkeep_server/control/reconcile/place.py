"""Place: queued sandboxes get a machine, each organisation in its turn, and become ready."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.blobs.interface import BlobDamaged, BlobNotFound
from boxkeep_server.control.copies import Copies
from boxkeep_server.control.fleet import Fleet, isolation_facts
from boxkeep_server.control.machines import Wishes, tell_lost
from boxkeep_server.control.reach import Reacher
from boxkeep_server.control.reconcile.crowd import Crowd
from boxkeep_server.control.reconcile.deaths import REASONS
from boxkeep_server.control.steps import DISCARD, PLACE, SYSTEM, Steps
from boxkeep_server.engine.interface import (
    AlreadyReleased,
    Engine,
    EngineError,
    NodeAway,
    NoRoom,
    PlacementFailed,
    PlacementLate,
    SnapshotUnfit,
    Unsupported,
)
from boxkeep_server.model.commands import Outcome
from boxkeep_server.model.errors import TimedOut, Unavailable
from boxkeep_server.model.events import EventType
from boxkeep_server.model.machines import MAIN, Key
from boxkeep_server.model.node_api import Claim, ClaimState, ClaimWish, DeathReason, NodeFacts
from boxkeep_server.model.sandboxes import Reason, Sandbox
from boxkeep_server.model.statuses import Status
from boxkeep_server.store import agents, checkpoints, companions, endings, sandboxes, selections
from boxkeep_server.store.database import Database
from boxkeep_server.store.sealing import Seal, SealBroken

AT_ONCE: Final = 16

_NOTHING_KEPT: Final[dict[str, Any]] = {
    "kept_epoch": None,
    "kept_sides": {},
    "kept_bytes": None,
    "paused_at": None,
    "remaining_ms": None,
    "origin": None,
    "files_only": False,
}

_log = logging.getLogger(__name__)


class Place:
    """Moves sandboxes from `queued` over `assigning` to `ready`, or to `failed` when there is no room for too long."""

    def __init__(
        self,
        database: Database,
        steps: Steps,
        engine: Engine,
        reacher: Reacher,
        seal: Seal,
        fleet: Fleet,
        copies: Copies,
        *,
        no_room_wait_ms: int,
    ) -> None:
        self._database = database
        self._steps = steps
        self._engine = engine
        self._reacher = reacher
        self._wishes = Wishes(database, seal, steps.now_ms)
        self._fleet = fleet
        self._no_room_wait_ms = no_room_wait_ms
        self._copies = copies
        self._brought: set[Key] = set()
        self._anew: set[Key] = set()
        self._in_doubt = False
        self._more = False
        self.crowd = Crowd(AT_ONCE, self._go_on)

    def _go_on(self) -> None:
        if self._more and not self._in_doubt:
            self._steps.wake(PLACE)

    async def run_once(self) -> int:
        """Start what can be started and give up what has waited too long; how many placements were started."""
        async with self._database.reading() as connection:
            assigning = await selections.in_status(connection, Status.ASSIGNING)
            queued = await selections.in_turn(connection, Status.QUEUED, 2 * AT_ONCE)
        bound = {key for one in assigning for key in one.machines}
        self._brought &= bound
        self._anew &= bound
        again = [one for one in assigning if one.id not in self.crowd]
        turns = [one for one in queued if one.id not in self.crowd]
        if self._in_doubt and (again or turns):
            again, turns = await self._in_doubt_of_room(again, turns)
        started = [one for one in (*again, *turns) if self.crowd.start(one.id, partial(self._place, one))]
        self._more = len(started) < len(again) + len(turns)
        return len(started)

    async def _in_doubt_of_room(
        self, again: list[Sandbox], turns: list[Sandbox]
    ) -> tuple[list[Sandbox], list[Sandbox]]:
        """After a node was full or away: one is tried at a time, while a node says that it has room for it, until one
        got it.
        Who is not tried has no more time than `no_room_wait_ms`."""
        try:
            nodes = await self._fleet.refresh()
        except NodeAway:
            await self._give_up(again, Reason.NODE_LOST)
            again, turns = [], []
        else:
            turns = self._first_with_room(turns, nodes)
        async with self._database.reading() as connection:
            queued = await selections.queued_before(connection, self._steps.now_ms() - self._no_room_wait_ms)
        tried = {sandbox.id for sandbox in turns}
        await self._give_up([one for one in queued if one.id not in tried], Reason.NO_CAPACITY)
        return again, turns

    def _first_with_room(self, turns: list[Sandbox], nodes: Sequence[NodeFacts]) -> list[Sandbox]:
        """Who has its turn next. One that wants several slots lets others that there is room for go before it for half
        of its time, and none after that: it would be overtaken for ever."""
        room = max((node.slots - node.slots_used for node in nodes if node.admitting), default=0)
        most = max((node.slots for node in nodes), default=0)
        for one in turns:
            wants = len(one.machines)
            if wants <= room:
                return [one]
            if wants <= most and 2 * self._waited_ms(one) >= self._no_room_wait_ms:
                return []
        return []

    async def _give_up(self, waiting: Sequence[Sandbox], reason: Reason) -> None:
        for sandbox in waiting:
            if self._waited_too_long(sandbox) and sandbox.id not in self.crowd:
                await self._lose(sandbox, reason)

    async def _lose(self, sandbox: Sandbox, reason: Reason) -> None:
        """A sandbox does not come up: one that was to be resumed is paused again, with all that it had."""
        after = Status.FAILED if sandbox.kept_epoch is None else Status.PAUSED
        await self._steps.step(sandbox, after, reason=reason, origin=None, files_only=False)

    def _waited_too_long(self, sandbox: Sandbox) -> bool:
        return self._waited_ms(sandbox) >= self._no_room_wait_ms

    def _waited_ms(self, sandbox: Sandbox) -> int:
        return self._steps.now_ms() - sandbox.queued_at

    async def _place(self, sandbox: Sandbox) -> None:
        placed: Sandbox | None = sandbox
        if sandbox.status is Status.QUEUED:
            sides = {role: epoch + 1 for role, epoch in sandbox.sides.items()}
            placed = await self._steps.step(sandbox, Status.ASSIGNING, epoch=sandbox.epoch + 1, sides=sides)
        if placed is None:
            return
        claimed: list[tuple[str, Claim]] = []
        # The main one last: what its user runs begins, or goes on, once all the others are there.
        for key in reversed(placed.machines):
            machine = await self._claim(placed, key)
            if machine is None:
                return
            claimed.append(machine)
        self._in_doubt = False
        await self._take(placed, claimed)

    async def _claim(self, sandbox: Sandbox, key: Key) -> tuple[str, Claim] | None:
        """A machine of a sandbox; None where it does not get one now, and what comes of that is done."""
        wish = None
        try:
            wish = await self._wishes.of(sandbox, key, anew=key in self._anew)
            return await self._engine.place(wish)
        except (NoRoom, NodeAway) as error:
            self._in_doubt = True
            await self._wait(sandbox, error)
        except AlreadyReleased as error:
            _log.warning("sandbox %s gets another epoch: %s", sandbox.id, error)
            await self._again(sandbox, Reason.BOOT_FAILED)
        except Unsupported as error:
            await self._fail(sandbox, Reason.UNSUPPORTED, error)
        except SnapshotUnfit as error:
            if await self._mended(sandbox, key, wish, error):
                return await self._claim(sandbox, key)
        except (PlacementFailed, SealBroken) as error:
            if await self._begins_anew(sandbox, key, wish, Reason.BOOT_FAILED, error):
                return await self._claim(sandbox, key)
        return None

    async def _mended(self, sandbox: Sandbox, key: Key, wish: ClaimWish | None, unfit: SnapshotUnfit) -> bool:
        """What the node lacks, or has damaged, it gets from the store, once; whether it is to be asked again."""
        try:
            if key not in self._brought and await self._brings(unfit):
                self._brought.add(key)
                return True
            return await self._begins_anew(sandbox, key, wish, Reason.SNAPSHOT_UNFIT, unfit)
        except (SnapshotUnfit, BlobNotFound, BlobDamaged) as error:
            return await self._begins_anew(sandbox, key, wish, Reason.SNAPSHOT_UNFIT, error)
        except NoRoom as error:
            await self._fail(sandbox, Reason.NO_SPACE, error)
        except NodeAway as error:
            await self._wait(sandbox, error)
        except (Unavailable, TimedOut) as error:
            if self._waited_too_long(sandbox):
                await self._fail(sandbox, Reason.STORE_AWAY, error)
        return False

    async def _brings(self, unfit: SnapshotUnfit) -> bool:
        """Bring what a node lacks from the store; whether it is there. Raises as `Copies.bring`."""
        if unfit.node is None or unfit.snapshot is None:
            return False
        return await self._copies.bring(unfit.snapshot, unfit.node)

    async def _begins_anew(
        self, sandbox: Sandbox, key: Key, wish: ClaimWish | None, reason: Reason, error: Exception
    ) -> bool:
        """Whether a machine is to be had without what was kept of it: one beside the main one is, for that is lost
        then, and the sandbox is not. Else the sandbox does not come up."""
        if key.role == MAIN or wish is None or wish.origin is None:
            await self._fail(sandbox, reason, error)
            return False
        _log.warning("the %s of sandbox %s begins anew: %s", key.role, sandbox.id, error)
        self._anew.add(key)
        return True

    async def _wait(self, sandbox: Sandbox, error: NoRoom | NodeAway) -> None:
        """No room: back into the queue. Away or late: a machine may be bound, so the same epoch is asked again."""
        if isinstance(error, NoRoom):
            await self._give_back(sandbox)
            await self._again(sandbox, Reason.NO_CAPACITY)
        elif self._waited_too_long(sandbox):
            late = isinstance(error, PlacementLate)
            await self._fail(sandbox, Reason.BOOT_FAILED if late else Reason.NODE_LOST, error)

    async def _give_back(self, sandbox: Sandbox) -> None:
        """Have no machine wait for another that there is no room for: two sandboxes could wait for each other's. What
        is not given back now is nobody's as soon as the sandbox has its next turn, and taken down as that."""
        for key in sandbox.machines if sandbox.sides else ():
            with suppress(EngineError):
                await self._engine.release(None, *key)

    async def _again(self, sandbox: Sandbox, otherwise: Reason) -> None:
        if self._waited_too_long(sandbox):
            await self._lose(sandbox, otherwise)
        else:
            await self._steps.step(sandbox, Status.QUEUED)

    async def _fail(self, sandbox: Sandbox, reason: Reason, error: Exception) -> None:
        _log.warning("sandbox %s cannot be placed, %s: %s", sandbox.id, reason, error)
        await self._lose(sandbox, reason)

    async def _take(self, sandbox: Sandbox, claimed: Sequence[tuple[str, Claim]]) -> None:
        """All machines are bound. The main one may have died since, when it was bound by an earlier try; another that
        has is mended once the sandbox is ready."""
        node, claim = claimed[-1]
        if claim.state is not ClaimState.DEAD:
            await self._ready(sandbox, node, [one for _, one in claimed])
        elif claim.reason is DeathReason.HOST_RESTARTED:
            await self._again(sandbox, Reason.NODE_RESTARTED)
        else:
            born_dead = claim.reason in (None, DeathReason.EXITED)
            await self._lose(sandbox, Reason.BOOT_FAILED if born_dead else REASONS[claim.reason])

    async def _ready(self, sandbox: Sandbox, node: str, claims: Sequence[Claim]) -> None:
        claim = claims[-1]
        try:
            facts = await self._fleet.of(node)
        except NodeAway:
            return  # the next try finds the same machine
        can = None if facts is None else isolation_facts(facts, claim.isolation)
        now = self._steps.now_ms()
        for one in claims:
            self._reacher.remember(one)
        async with self._database.writing() as connection:
            ready = await sandboxes.step(
                connection,
                sandbox,
                Status.READY,
                event=EventType.READY,
                at=now,
                actor=SYSTEM,
                node=node,
                region=None if facts is None else facts.region,
                isolation=claim.isolation,
                pause_keeps=None if can is None else can.pause_keeps,
                disk_limit=None if facts is None else facts.disk_limit,
                started_at=sandbox.started_at or now,
                ready_at=now,
                expires_at=now + sandbox.window_ms,
                node_not_after=min(one.not_after for one in claims),
                reason=None,
                **_NOTHING_KEPT,
            )
            if ready is not None and sandbox.origin is not None:
                await self._note_origin(connection, sandbox, sandbox.origin, now)
            elif ready is not None and sandbox.files_only:
                lost, why = Outcome.LOST_ON_FILES_PAUSE, "The sandbox was resumed without its memory"
                await endings.settle_open(connection, sandbox.id, outcome=lost, reason=why, at=now)
            for key in self._anew.intersection(sandbox.machines) if ready is not None else ():
                words = "It cannot go on from what was kept of it, and begins anew"
                await tell_lost(connection, sandbox, key.role, words, now)
        if ready is None:
            self._reacher.forget(sandbox)
            return
        self._steps.tell(ready)
        if sandbox.kept_epoch is not None:
            self._steps.wake(DISCARD)

    @staticmethod
    async def _note_origin(connection: AsyncConnection, sandbox: Sandbox, origin: str, now: int) -> None:
        """A sandbox has gone back to a checkpoint: what ran there and not in it ends so."""
        found = await checkpoints.get(connection, origin)
        if found is None or found.sandbox != sandbox.id:
            return
        await checkpoints.restored(connection, found, now, SYSTEM)
        await companions.forget(connection, sandbox.id)
        await agents.roll_back(connection, sandbox.id, now, SYSTEM)
        since = 0 if found.keeps == "files" or sandbox.files_only else found.created_at
        await endings.settle_open(
            connection,
            sandbox.id,
            outcome=Outcome.ROLLED_BACK,
            reason="The sandbox went back to a checkpoint",
            at=now,
            since=since,
        )
