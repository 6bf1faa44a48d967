"""Idempotency keys: the same request again gets the first one's answer, also across a crash of ours."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from boxkeep_server.model.errors import Conflict, Unavailable
from boxkeep_server.model.ids import new_id
from boxkeep_server.store import answers
from boxkeep_server.store.answers import FREE, Kept, Name
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
    """The right to do the work of a key. What is made gets `effect` as its id: if the work ends without an answer,
    by a crash or else, the next try has the same one, finds what was made, and makes nothing twice."""

    name: Name
    effect: str


class Idempotency:
    """The keys of all organisations, kept for `kept_ms`."""

    def __init__(self, database: Database, now_ms: Callable[[], int], kept_ms: int) -> None:
        self._database = database
        self._now_ms = now_ms
        self._kept_ms = kept_ms
        self._owner = new_id()
        self._at_work: set[Name] = set()

    async def begin(self, organisation: str, route: str, key: str, fingerprint: str) -> Answer | Slot:
        """The answer that was given under this key, or the right to work one out. Waits while another is at it.

        Raises:
            Conflict: the key came with another request before.
            Unavailable: the other one took too long.
        """
        name = Name(organisation, route, key)
        until = asyncio.get_running_loop().time() + WAIT_S
        while asyncio.get_running_loop().time() < until:
            begun = await self._try(name, fingerprint)
            if begun is not None:
                return begun
            await asyncio.sleep(POLL_S)
        raise Unavailable("The first request with this Idempotency-Key is still being worked on")

    async def _try(self, name: Name, fingerprint: str) -> Answer | Slot | None:
        """The answer or the right to it; None while another has that."""
        async with self._database.reading() as connection:
            kept = await answers.find(connection, name)
        now = self._now_ms()
        decision = decide(kept, Kept(fingerprint, new_id(), self._owner, now), now - self._kept_ms)
        if not isinstance(decision, Kept):
            return decision
        if name in self._at_work:
            return None
        mine = False
        self._at_work.add(name)
        try:
            mine = await self._take(name, kept, decision)
        finally:
            if not mine:
                self._at_work.discard(name)
        return Slot(name, decision.effect) if mine else None

    async def _take(self, name: Name, kept: Kept | None, decision: Kept) -> bool:
        async with self._database.writing() as connection:
            if kept is None:
                return await answers.add(connection, name, decision)
            return await answers.replace(connection, name, kept, decision)

    async def complete(self, slot: Slot, answer: Answer, *, secret: bool = False) -> None:
        """Keep an answer; of a secret one only that it was given: who repeats the request gets another. Where that
        cannot be written, give the key up."""
        body = None if secret else answer.body
        async with self._database.writing() as connection:
            await answers.change(connection, slot.name, self._owner, status=answer.status, body=body)
        self._at_work.discard(slot.name)

    async def give_up(self, slot: Slot) -> None:
        """Free a key whose work has no answer to keep. What it may have made will be found by the next try, which also
        may begin where this could not be written."""
        try:
            async with self._database.writing() as connection:
                await answers.change(connection, slot.name, self._owner, owner=FREE)
        finally:
            self._at_work.discard(slot.name)


def decide(kept: Kept | None, wanted: Kept, too_old: int) -> Answer | Kept:
    """What a request gets: the answer that is kept, or what to write to have the right to work, unless this process is
    at it already: an owner of ours that is not is one that died, or that could not write how it ended; an answer
    without a body was secret.

    Raises:
        Conflict: the key came with another request before.
    """
    if kept is None or kept.created_at < too_old:
        return wanted
    same = kept.fingerprint == wanted.fingerprint
    if kept.owner == FREE and kept.status is None:
        return replace(wanted, effect=kept.effect) if same else wanted
    if not same:
        raise Conflict("This Idempotency-Key was used with another request")
    if kept.status is not None and kept.body is not None:
        return Answer(kept.status, kept.body)
    return replace(wanted, effect=kept.effect)
