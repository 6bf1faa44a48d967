"""The operator's audit log: the event rows of all organisations, oldest first."""

from collections.abc import AsyncIterator

from boxkeep_server.model.events import Event
from boxkeep_server.store import events
from boxkeep_server.store.database import Database

_AT_ONCE = 500


class Audit:
    """Reads what the timelines are read from, whoever's it is; for the operator alone."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, *, organisation: str | None, sandbox: str | None, since: int) -> AsyncIterator[Event]:
        """All that happened at `since` (epoch ms) or later, of an organisation (name or id) or a sandbox if wished.

        It is read a page at a time: memory stays bounded however long it is.
        """
        after = 0
        while True:
            async with self._database.scanning() as connection:
                found = await events.everywhere(
                    connection, after, organisation=organisation, sandbox=sandbox, since=since, limit=_AT_ONCE
                )
            for event in found:
                yield event
            if len(found) < _AT_ONCE:
                return
            after = found[-1].id
