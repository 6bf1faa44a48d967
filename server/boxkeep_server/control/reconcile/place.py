"""Place: queued sandboxes get a machine, each organisation in its turn, and become ready."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

import orjson

from boxkeep_server.control.reach import Reacher
from boxkeep_server.control.reconcile.crowd import LOG, Crowd
from boxkeep_server.control.steps import Steps
from boxkeep_server.engine.interface import (
    AlreadyReleased,
    Engine,
    NodeAway,
    NoRoom,
    PlacementFailed,
    Unsupported,
)
from boxkeep_server.model.node_api import Claim, ClaimWish, NetworkWish, NodeFacts
from boxkeep_server.model.sandboxes import Reason, Sandbox
from boxkeep_server.model.statuses import Status
from boxkeep_server.store import sandboxes
from boxkeep_server.store.database import Database
from boxkeep_server.store.sealing import Seal

SLACK_MS: Final = 5_000
"""How much later than the control plane the node ends a machine by itself."""


def in_turn(queued: Iterable[Sandbox]) -> list[Sandbox]:
    """The same sandboxes so that organisations take turns, each with its longest waiting one first."""
    waiting: dict[str, deque[Sandbox]] = {}
    for sandbox in queued:
        waiting.setdefault(sandbox.organisation, deque()).append(sandbox)
    turns = []
    while waiting:
        for organisation in list(waiting):
            turns.append(waiting[organisation].popleft())
            if not waiting[organisation]:
                del waiting[organisation]
    return turns


class Place:
    """Moves sandboxes from `queued` over `assigning` to `ready`, or to `failed` when there is no room for too long."""

    def __init__(
        self,
        database: Database,
        steps: Steps,
        engine: Engine,
        reacher: Reacher,
        seal: Seal,
        *,
        no_room_wait_ms: int,
        at_once: int = 16,
        facts: Callable[[], Sequence[NodeFacts]] = tuple,
    ) -> None:
        self._database = database
        self._steps = steps
        self._engine = engine
        self._reacher = reacher
        self._seal = seal
        self._no_room_wait_ms = no_room_wait_ms
        self._facts = facts
        self._full = False
        self.crowd = Crowd(at_once)

    async def run_once(self) -> int:
        """Start what can be started and give up what has waited too long; how many placements were started."""
        async with self._database.reading() as connection:
            assigning = await sandboxes.in_status(connection, Status.ASSIGNING)
            queued = await sandboxes.in_status(connection, Status.QUEUED)
        idle = [one for one in (*assigning, *queued) if one.id not in self.crowd]
        await self._give_up([one for one in idle if self._waited_too_long(one)])
        fresh = [one for one in idle if not self._waited_too_long(one)]
        turns = in_turn(one for one in fresh if one.status is Status.QUEUED)
        again = [one for one in fresh if one.status is Status.ASSIGNING]
        turns = turns[: await self._room(len(turns))] if turns else []
        return sum(self.crowd.start(one.id, partial(self._place, one)) for one in (*again, *turns))

    async def _room(self, wanted: int) -> int:
        """How many may be tried: all, until a node has said that it is full; from then on what it says is free."""
        if not self._full:
            return wanted
        try:
            nodes = await self._engine.nodes()
        except NodeAway:
            return 0
        free = sum(max(0, node.slots - node.slots_used) for node in nodes if node.admitting)
        self._full = free == 0
        return free

    def _waited_too_long(self, sandbox: Sandbox) -> bool:
        return self._steps.now_ms() - sandbox.queued_at >= self._no_room_wait_ms

    async def _give_up(self, waited: Sequence[Sandbox]) -> None:
        for sandbox in waited:
            await self._steps.step(sandbox, Status.FAILED, reason=Reason.NO_CAPACITY)

    async def _place(self, sandbox: Sandbox) -> None:
        placed: Sandbox | None = sandbox
        if sandbox.status is Status.QUEUED:
            placed = await self._steps.step(sandbox, Status.ASSIGNING, epoch=sandbox.epoch + 1)
        if placed is None:
            return
        try:
            node, claim = await self._engine.place(await self._wish(placed))
        except NoRoom:
            self._full = True
            await self._steps.step(placed, Status.QUEUED)
        except NodeAway as away:
            LOG.warning("node away while placing", sandbox=sandbox.id, error=str(away))
        except Unsupported as error:
            LOG.warning("placement unsupported", sandbox=sandbox.id, error=str(error))
            await self._steps.step(placed, Status.FAILED, reason=Reason.UNSUPPORTED)
        except (PlacementFailed, AlreadyReleased) as error:
            LOG.warning("placement failed", sandbox=sandbox.id, error=str(error))
            await self._steps.step(placed, Status.FAILED, reason=Reason.BOOT_FAILED)
        else:
            await self._ready(placed, node, claim)

    async def _wish(self, sandbox: Sandbox) -> ClaimWish:
        async with self._database.reading() as connection:
            sealed = await sandboxes.sealed_env(connection, sandbox.id)
        env = {} if sealed is None else orjson.loads(self._seal.open(sealed, sandbox.id))
        return ClaimWish(
            sandbox=sandbox.id,
            epoch=sandbox.epoch,
            image=sandbox.runtime,
            isolation=sandbox.wished_isolation,
            not_after=self._steps.now_ms() + sandbox.max_duration_ms + SLACK_MS,
            hostname=f"sandbox-{sandbox.id[:8]}",
            env=env,
            network=NetworkWish(internet=sandbox.network.internet, allow=sandbox.network.allow),
        )

    async def _ready(self, sandbox: Sandbox, node: str, claim: Claim) -> None:
        self._reacher.remember(claim)
        now = self._steps.now_ms()
        facts = next((one for one in self._facts() if one.node_id == node), None)
        can = facts.isolations.get(claim.isolation) if facts else None
        await self._steps.step(
            sandbox,
            Status.READY,
            node=node,
            region=facts.region if facts else "loc",
            isolation=claim.isolation,
            pause_keeps=can.pause_keeps if can else "files",
            started_at=sandbox.started_at or now,
            ready_at=now,
            expires_at=now + sandbox.max_duration_ms,
            node_not_after=claim.not_after,
            reason=None,
        )
