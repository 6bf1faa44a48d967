"""Idempotency keys: the same request again gets the first one's answer, also across a crash of ours."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from boxkeep_server.model.errors import Conflict, Unavailable
from boxkeep_server.model.ids import new_id
from boxkeep_server.store import answers
from boxkeep_server.store.answers import Kept
from boxkeep_server.store.database import Database

POLL_S = 0.05
WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is kept."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Slot:
    """The right to do the work of a key. What is made gets `effect` as its id: if this process dies before it answers,
    the next try has the same one, finds what was made, and makes nothing twice."""

    organisation: str
    route: str
    key: str
    effect: str


class Idempotency:
    """The keys of all organisations, kept for `kept_ms`."""

    def __init__(self, database: Database, now_ms: Callable[[], int], kept_ms: int) -> None:
        self._database = database
        self._now_ms = now_ms
        self._kept_ms = kept_ms
        self._owner = new_id()

    async def begin(self, organisation: str, route: str, key: str, fingerprint: str) -> Answer | Slot:
        """The answer that was given under this key, or the right to work one out. Waits while another is at it.

        Raises:
            Conflict: the key came with another request before.
            Unavailable: the other one took too long.
        """
        until = asyncio.get_running_loop().time() + WAIT_S
        while asyncio.get_running_loop().time() < until:
            begun = await self._try(organisation, route, key, fingerprint)
            if begun is not None:
                return begun
            await asyncio.sleep(POLL_S)
        raise Unavailable("The first request with this Idempotency-Key is still being worked on")

    async def _try(self, organisation: str, route: str, key: str, fingerprint: str) -> Answer | Slot | None:
        now = self._now_ms()
        async with self._database.writing() as connection:
            kept = await answers.find(connection, organisation, route, key)
            if kept is not None and kept.created_at <= now - self._kept_ms:
                kept = None
            if kept is not None:
                if kept.fingerprint != fingerprint:
                    raise Conflict("This Idempotency-Key was used with another request")
                if kept.status is not None and kept.body is not None:
                    return Answer(kept.status, kept.body)
                if kept.owner == self._owner:
                    return None
            effect = new_id() if kept is None else kept.effect
            mine = Kept(fingerprint, effect, self._owner, now, None, None)
            await answers.reserve(connection, organisation, route, key, mine)
        return Slot(organisation, route, key, effect)

    async def complete(self, slot: Slot, answer: Answer) -> None:
        """Keep an answer."""
        async with self._database.writing() as connection:
            await answers.complete(
                connection, slot.organisation, slot.route, slot.key, self._owner, answer.status, answer.body
            )

    async def give_up(self, slot: Slot) -> None:
        """Free the key of a request that had no effect."""
        async with self._database.writing() as connection:
            await answers.give_up(connection, slot.organisation, slot.route, slot.key, self._owner)
