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
class Stored:
    """An answer that is kept for its key."""

    status: int
    body: bytes


class Idempotency:
    """The keys of all organisations, kept for `kept_ms`."""

    def __init__(self, database: Database, now_ms: Callable[[], int], kept_ms: int) -> None:
        self._database = database
        self._now_ms = now_ms
        self._kept_ms = kept_ms
        self._owner = new_id()

    async def begin(self, organisation: str, route: str, key: str, fingerprint: str) -> Stored | None:
        """The answer that was given under this key; None for the first, which must `finish` or `abandon`.

        Waits while another is at it; one whose process has died is at nothing.

        Raises:
            Conflict: the key came with another request before.
            Unavailable: the other one took too long.
        """
        until = asyncio.get_running_loop().time() + WAIT_S
        while asyncio.get_running_loop().time() < until:
            mine, stored = await self._try(organisation, route, key, fingerprint)
            if mine or stored is not None:
                return stored
            await asyncio.sleep(POLL_S)
        raise Unavailable("The first request with this Idempotency-Key is still being worked on")

    async def _try(self, organisation: str, route: str, key: str, fingerprint: str) -> tuple[bool, Stored | None]:
        now = self._now_ms()
        async with self._database.writing() as connection:
            kept = await answers.find(connection, organisation, route, key)
            if kept is not None and kept.created_at > now - self._kept_ms:
                if kept.fingerprint != fingerprint:
                    raise Conflict("Idempotency-Key was used with another request")
                if kept.status is not None and kept.body is not None:
                    return False, Stored(kept.status, kept.body)
                if kept.owner == self._owner:
                    return False, None
            mine = Kept(fingerprint, new_id(), self._owner, now, None, None)
            await answers.reserve(connection, organisation, route, key, mine)
        return True, None

    async def finish(self, organisation: str, route: str, key: str, stored: Stored) -> None:
        """Keep the answer of the first."""
        async with self._database.writing() as connection:
            await answers.complete(connection, organisation, route, key, self._owner, stored.status, stored.body)

    async def abandon(self, organisation: str, route: str, key: str) -> None:
        """Free the key of a request that had no effect."""
        async with self._database.writing() as connection:
            await answers.give_up(connection, organisation, route, key, self._owner)
