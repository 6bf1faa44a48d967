"""Publishes what a sandbox that ends leaves, artifacts and recordings: within bounds, and whatever its guest does."""

import asyncio
import logging
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from boxkeep_server.control.artifacts import Artifacts
from boxkeep_server.control.keys import owner
from boxkeep_server.control.patience import while_away
from boxkeep_server.control.recordings import Recordings
from boxkeep_server.control.steps import SYSTEM, Steps
from boxkeep_server.model.errors import (
    BoxkeepError,
    Conflict,
    Invalid,
    NotFound,
    NotReady,
    SandboxFault,
    TimedOut,
)
from boxkeep_server.model.events import EventType
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.store import sandboxes
from boxkeep_server.store.database import Database

WITHIN_S: Final = 30.0
"""How long a sandbox's end may be held up by it: long enough for a gigabyte, and no more than a release may take."""
LIST_WITHIN_S: Final = 5.0
NAMED_MOST: Final = 20
_OF_ONE: Final = (NotFound, Invalid, Conflict, SandboxFault)
"""What may be wrong with a file, and does not keep others from being published."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Outcome:
    published: int = 0
    missed: list[str] = field(default_factory=list)
    reason: str | None = None


class Salvage:
    """Looks into sandboxes that are ending by way of `artifacts` and `recordings`, which have to lead into those."""

    def __init__(
        self,
        database: Database,
        steps: Steps,
        artifacts: Artifacts,
        recordings: Recordings,
        within_s: float = WITHIN_S,
    ) -> None:
        self._database = database
        self._steps = steps
        self._artifacts = artifacts
        self._recordings = recordings
        self._within_s = within_s

    async def run(self, sandbox: Sandbox) -> None:
        """Publish what can be, and note in the timeline what could not be. May be repeated: what was published is not
        published twice. What is away, as a node that is being restarted, is asked again while there is time."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._recordings.finish(sandbox, self._within_s))
            both.create_task(self._folder(sandbox))

    async def _folder(self, sandbox: Sandbox) -> None:
        until = asyncio.get_running_loop().time() + self._within_s
        outcome = _Outcome()
        try:
            await while_away(partial(self._publish, sandbox, outcome, until), until)
        except NotReady:
            return  # there is no machine that could be asked
        except BoxkeepError as error:
            outcome.reason = str(error)
        if outcome.missed or outcome.reason is not None:
            await self._tell(sandbox, outcome)

    async def _publish(self, sandbox: Sandbox, outcome: _Outcome, until: float) -> None:
        clock = asyncio.get_running_loop().time
        outcome.published, outcome.missed, outcome.reason = 0, [], None
        caller = await owner(self._database, sandbox.organisation)
        try:
            async with asyncio.timeout(min(LIST_WITHIN_S, self._within_s)):
                waiting, skipped = await self._artifacts.below(caller, sandbox.id)
        except TimeoutError as late:
            raise TimedOut("The sandbox did not list its files in time") from late
        outcome.missed += skipped
        for number, key in enumerate(waiting):
            try:
                await self._artifacts.publish_key(caller, sandbox.id, key, max(until - clock(), 0.001))
                outcome.published += 1
            except NotReady:
                raise
            except _OF_ONE as error:
                outcome.missed.append(key)
                outcome.reason = outcome.reason or str(error)
            except BoxkeepError:
                outcome.missed += waiting[number:]
                raise

    async def _tell(self, sandbox: Sandbox, outcome: _Outcome) -> None:
        missed = len(outcome.missed)
        _log.warning("of sandbox %s %d artifacts were not published: %s", sandbox.id, missed, outcome.reason)
        async with self._database.writing() as connection:
            await sandboxes.tell(
                connection,
                sandbox.id,
                sandbox.organisation,
                event=EventType.ARTIFACTS_MISSED,
                at=self._steps.now_ms(),
                actor=SYSTEM,
                data={
                    "published": outcome.published,
                    "missed": missed,
                    "keys": outcome.missed[:NAMED_MOST],
                    "reason": outcome.reason or "Neither files nor directories, or of a name that is no key",
                },
            )
