"""The events of a sandbox, for those who follow it."""

from collections.abc import Sequence

from boxkeep_server.control.changes import Changes
from boxkeep_server.model.events import Event
from boxkeep_server.store import sandboxes
from boxkeep_server.store.database import Database


class Happenings:
    """Events are read from the store; a change only says when to look."""

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes

    async def after(self, sandbox_id: str, sequence: int, limit: int) -> Sequence[Event]:
        """Those after a sequence, in order."""
        async with self._database.reading() as connection:
            return await sandboxes.events_after(connection, sandbox_id, sequence, limit)

    async def changed(self, sandbox_id: str, within_s: float) -> None:
        """Return when there may be more, or when the time is up."""
        with self._changes.listen(sandbox_id) as ear:
            await ear.heard(within_s)
