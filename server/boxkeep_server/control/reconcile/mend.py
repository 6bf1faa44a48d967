"""Mend: machines beside the main one of a ready sandbox that are lost are had anew, and the sandbox goes on."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from boxkeep_server.control.machines import Wishes, tell_lost
from boxkeep_server.control.reach import Reacher
from boxkeep_server.control.reconcile.crowd import Crowd
from boxkeep_server.control.reconcile.deaths import REASONS
from boxkeep_server.control.steps import SYSTEM, Steps
from boxkeep_server.engine.interface import AlreadyReleased, Engine, EngineError, NodeAway
from boxkeep_server.model.machines import Key
from boxkeep_server.model.node_api import Claim, ClaimState
from boxkeep_server.model.sandboxes import Reason, Sandbox
from boxkeep_server.store import companions, sandboxes, selections
from boxkeep_server.store.database import Database

AT_ONCE: Final = 8
FIRST_PAUSE_MS: Final = 1_000
LONGEST_PAUSE_MS: Final = 60_000
"""Between two tries in one sandbox: at first, and after many that have not held for as long as the longest."""

_log = logging.getLogger(__name__)


class Mend:
    """Holds the machines of sandboxes that have several against what nodes report.

    A machine that was lost has another epoch in its row before it has a successor, and what companions were in it are
    forgotten with that: whoever is killed in between finds a row whose machine is not there, and asks for that.
    """

    def __init__(
        self,
        database: Database,
        steps: Steps,
        engine: Engine,
        reacher: Reacher,
        wishes: Wishes,
        monotonic_ms: Callable[[], float],
    ) -> None:
        self._database = database
        self._steps = steps
        self._engine = engine
        self._reacher = reacher
        self._wishes = wishes
        self._monotonic_ms = monotonic_ms
        self._tried: dict[Key, tuple[float, float]] = {}
        self.crowd = Crowd(AT_ONCE)

    async def run_once(self) -> int:
        """Begin to mend what is to be mended; how many machines."""
        # The rows first: what is ready now has its claims already, so a claim missing afterwards is truly gone.
        async with self._database.reading() as connection:
            found = await selections.with_sides(connection)
        self._forget({key._replace(epoch=0) for one in found for key in one.machines})
        if not found:
            return 0
        try:
            by_node = await self._engine.claims()
        except NodeAway:
            return 0
        claims = {Key.of(one): one for some in by_node.values() for one in some}
        sides = [(one, key) for one in found for key in one.machines[1:]]
        lost = [(one, key) for one, key in sides if not _lives(claims.get(key)) and self._due(one, key)]
        return sum(self.crowd.start(one.id, partial(self._mend, one, key, claims.get(key))) for one, key in lost)

    def _forget(self, there: set[Key]) -> None:
        self._tried = {key: tried for key, tried in self._tried.items() if key in there}

    def _due(self, sandbox: Sandbox, key: Key) -> bool:
        """Whether it is time to try. One whose time is over is not mended any more."""
        at, pause = self._tried.get(key._replace(epoch=0), (0.0, 0.0))
        ends_at = sandbox.expires_at
        return self._monotonic_ms() >= at + pause and ends_at is not None and ends_at > self._steps.now_ms()

    def _note_try(self, key: Key) -> None:
        now, of = self._monotonic_ms(), key._replace(epoch=0)
        at, pause = self._tried.get(of, (0.0, 0.0))
        held = now - at > LONGEST_PAUSE_MS
        self._tried[of] = (now, FIRST_PAUSE_MS if held else min(2 * pause, LONGEST_PAUSE_MS))

    async def _mend(self, sandbox: Sandbox, lost: Key, claim: Claim | None) -> None:
        self._note_try(lost)
        try:
            if claim is None:
                await self._engine.place(await self._wishes.of(sandbox, lost))
            else:
                await self._replace(sandbox, lost, REASONS[claim.reason])
        except AlreadyReleased:
            await self._replace(sandbox, lost, Reason.MACHINE_DIED)
        except EngineError as error:
            _log.warning("the %s of sandbox %s has no machine yet: %s", lost.role, sandbox.id, error)

    async def _replace(self, sandbox: Sandbox, lost: Key, reason: Reason) -> None:
        """Write that a machine is lost, and ask for the next. That of the old is taken down as nobody's."""
        now = self._steps.now_ms()
        async with self._database.writing() as connection:
            sides = {**sandbox.sides, lost.role: lost.epoch + 1}
            changed = await sandboxes.change(connection, sandbox, event=None, at=now, actor=SYSTEM, sides=sides)
            if changed is None:
                return  # it is as it was no more: the next round tells
            await companions.forget(connection, sandbox.id, lost.role)
            words = f"Its machine is lost, and another takes its place: {reason}"
            await tell_lost(connection, sandbox, lost.role, words, now)
        _log.warning("the %s of sandbox %s lost its machine: %s", lost.role, sandbox.id, reason)
        self._reacher.forget_machine(lost)
        self._steps.tell_of(sandbox.id)
        await self._engine.place(await self._wishes.of(changed, lost._replace(epoch=lost.epoch + 1)))


def _lives(claim: Claim | None) -> bool:
    return claim is not None and claim.state is not ClaimState.DEAD
