"""Observe: what nodes report of machines is held against the store; the dead are failed, strays are released."""

import logging
from collections.abc import Mapping, Sequence

from boxkeep_server.control.fleet import Fleet
from boxkeep_server.control.reconcile.deaths import Death, deaths, strays
from boxkeep_server.control.steps import Steps
from boxkeep_server.engine.interface import Engine, EngineError, NodeAway
from boxkeep_server.model.machines import Key
from boxkeep_server.model.node_api import Claim, ClaimState
from boxkeep_server.model.statuses import Status
from boxkeep_server.store import sandboxes, selections
from boxkeep_server.store.database import Database

_log = logging.getLogger(__name__)


class Observe:
    """Reads all nodes and all ready sandboxes."""

    def __init__(self, database: Database, steps: Steps, engine: Engine, fleet: Fleet) -> None:
        self._database = database
        self._steps = steps
        self._engine = engine
        self._fleet = fleet
        self._seen: dict[Key, int] = {}
        self._away = False

    async def run_once(self) -> int:
        """Fail the dead and release strays; how many of both."""
        # The rows first: what is ready now has its claim already, so a claim missing afterwards is truly gone.
        async with self._database.scanning() as connection:
            ready = await selections.in_status(connection, Status.READY)
        try:
            await self._fleet.refresh()
            by_node = await self._engine.claims()
        except NodeAway as away:
            self._note_away(away)
            return 0
        self._note_away(None)
        claims = {Key.of(one): one for found in by_node.values() for one in found}
        dead = deaths(ready, claims, self._seen)
        self._seen = {body: one.last_seen_at for body, one in claims.items() if one.state is ClaimState.RUNNING}
        for death in dead:
            await self._end(death)
        return len(dead) + await self._release_strays(claims, by_node)

    def _note_away(self, away: NodeAway | None) -> None:
        if away is not None and not self._away:
            _log.warning("a node is away: %s", away)
        elif away is None and self._away:
            _log.warning("all nodes are back")
        self._away = away is not None

    async def _end(self, death: Death) -> None:
        moved = await self._steps.step(death.sandbox, death.status, reason=death.reason, ran_until=death.at)
        if moved is not None:
            _log.warning("sandbox %s lost its machine: %s", death.sandbox.id, death.reason)

    async def _release_strays(self, claims: Mapping[Key, Claim], by_node: Mapping[str, Sequence[Claim]]) -> int:
        async with self._database.scanning() as connection:
            answered_for = await sandboxes.answered_for(connection, {key.sandbox for key in claims})
        found = strays(claims, answered_for)
        nodes = {Key.of(one): node for node, some in by_node.items() for one in some}
        for key in found:
            try:
                await self._engine.release(nodes[key], *key)
            except EngineError as error:
                _log.warning("stray machine %s not released yet: %s", key.name, error)
        return len(found)
