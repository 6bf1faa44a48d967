"""The records of commands in the store, as the use cases ask for them."""

from collections.abc import Mapping, Sequence

from boxkeep_server.control import cursors
from boxkeep_server.control.ports import CommandPage
from boxkeep_server.control.record import Ending
from boxkeep_server.model.commands import Command
from boxkeep_server.store import commands
from boxkeep_server.store.database import Database


class StoredCommands:
    """See `CommandRows`; `write` is what a `Recorder` writes with."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, opened: Sequence[Command], ended: Sequence[Ending]) -> Mapping[str, Command]:
        """Write beginnings and endings in one transaction; the rows of the endings as they then are."""
        async with self._database.writing() as connection:
            await commands.add(connection, opened)
            for ending in ended:
                values = {name: getattr(ending, name) for name in Ending.__slots__ if name != "id"}
                await commands.end(connection, ending.id, values)
            return await commands.get_all(connection, [ending.id for ending in ended]) if ended else {}

    async def get(self, command_id: str) -> Command | None:
        """One record."""
        async with self._database.reading() as connection:
            return (await commands.get_all(connection, [command_id])).get(command_id)

    async def page(self, sandbox_id: str, cursor: str | None, limit: int) -> CommandPage:
        """A page of a sandbox's records, newest first.

        Raises:
            Invalid: the cursor is none of ours.
        """
        before = None if cursor is None else cursors.read(cursor)
        async with self._database.reading() as connection:
            found = await commands.page(connection, sandbox_id, before, limit + 1)
        items = found[:limit]
        more = len(found) > limit
        return CommandPage(items, cursors.write(items[-1].started_at, items[-1].id) if more else None)

    async def open(self) -> Sequence[Command]:
        """All records without an ending."""
        async with self._database.reading() as connection:
            return await commands.still_open(connection)
