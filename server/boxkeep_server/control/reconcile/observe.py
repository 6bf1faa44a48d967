"""Observe: what nodes report of machines is held against the store; the dead are failed, strays are released."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from boxkeep_server.control.reconcile.crowd import LOG
from boxkeep_server.control.steps import Steps
from boxkeep_server.engine.interface import Engine, EngineError, NodeAway
from boxkeep_server.model.node_api import Claim, ClaimState, DeathReason, NodeFacts
from boxkeep_server.model.sandboxes import Reason, Sandbox
from boxkeep_server.model.statuses import OVER, Status
from boxkeep_server.store import sandboxes
from boxkeep_server.store.database import Database

_REASONS: Final = {
    None: Reason.MACHINE_DIED,
    DeathReason.EXITED: Reason.MACHINE_DIED,
    DeathReason.OUT_OF_MEMORY: Reason.OUT_OF_MEMORY,
    DeathReason.HOST_MEMORY: Reason.HOST_MEMORY,
    DeathReason.EXPIRED: Reason.MAX_DURATION,
    DeathReason.BOOT_FAILED: Reason.BOOT_FAILED,
    DeathReason.HOST_RESTARTED: Reason.NODE_RESTARTED,
    DeathReason.DISK_LOST: Reason.DISK_LOST,
}


@dataclass(frozen=True, slots=True)
class Death:
    """A ready sandbox without a living machine; `at` is when that was last known to live, None where nobody knows."""

    sandbox: Sandbox
    reason: Reason
    at: int | None


def deaths(ready: Sequence[Sandbox], claims: Mapping[tuple[str, int], Claim]) -> list[Death]:
    """Which of the sandboxes that were ready before `claims` were read have lost their machine."""
    found = []
    for sandbox in ready:
        claim = claims.get((sandbox.id, sandbox.epoch))
        if claim is None:
            found.append(Death(sandbox, Reason.MACHINE_DIED, None))
        elif claim.state is ClaimState.DEAD:
            found.append(Death(sandbox, _REASONS[claim.reason], claim.died_at or claim.last_seen_at))
    return found


def strays(claims: Mapping[tuple[str, int], Claim], rows: Mapping[str, tuple[Status, int]]) -> list[tuple[str, int]]:
    """Claims that no row wants: of sandboxes that are not there, are over, or have a newer machine."""
    found = []
    for sandbox, epoch in claims:
        status, current = rows.get(sandbox, (Status.ENDED, 0))
        if status in OVER or epoch != current:
            found.append((sandbox, epoch))
    return found


class Observe:
    """Reads all nodes and all ready sandboxes. `facts` is what the nodes last said of themselves."""

    def __init__(self, database: Database, steps: Steps, engine: Engine) -> None:
        self._database = database
        self._steps = steps
        self._engine = engine
        self.facts: Sequence[NodeFacts] = ()

    async def run_once(self) -> int:
        """Fail the dead and release strays; how many of both."""
        # The rows first: what is ready now has its claim already, so a claim missing afterwards is truly gone.
        async with self._database.reading() as connection:
            ready = await sandboxes.in_status(connection, Status.READY, limit=100_000)
        try:
            self.facts = await self._engine.nodes()
            by_node = await self._engine.claims()
        except NodeAway as away:
            LOG.warning("node away", error=str(away))
            return 0
        claims = {(one.sandbox, one.epoch): one for found in by_node.values() for one in found}
        dead = deaths(ready, claims)
        for death in dead:
            await self._fail(death)
        return len(dead) + await self._release_strays(claims, by_node)

    async def _fail(self, death: Death) -> None:
        LOG.warning("sandbox lost its machine", sandbox=death.sandbox.id, reason=death.reason)
        over = Status.ENDING if death.reason is Reason.MAX_DURATION else Status.FAILED
        await self._steps.step(death.sandbox, over, reason=death.reason, ran_until=death.at, expires_at=None)

    async def _release_strays(
        self, claims: Mapping[tuple[str, int], Claim], by_node: Mapping[str, Sequence[Claim]]
    ) -> int:
        async with self._database.reading() as connection:
            rows = await sandboxes.states(connection, {sandbox for sandbox, _ in claims})
        found = strays(claims, rows)
        nodes = {(one.sandbox, one.epoch): node for node, some in by_node.items() for one in some}
        for sandbox, epoch in found:
            try:
                await self._engine.release(nodes[sandbox, epoch], sandbox, epoch)
            except EngineError as error:
                LOG.warning("stray not released yet", sandbox=sandbox, epoch=epoch, error=str(error))
        return len(found)
