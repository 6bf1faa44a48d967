"""Commands: their records and the events of their beginnings and ends, many in one transaction."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.model.commands import Command, Outcome
from boxkeep_server.model.cursors import cursor_of, read_cursor
from boxkeep_server.model.events import EventType, Note
from boxkeep_server.store.database import Database
from boxkeep_server.store.schema import commands, events, sandboxes

RECORD = [commands.c[name] for name in Command.__slots__]
OPEN_AT_ONCE = 10_000
_ENDING = ("ended_at", "outcome", "exit_code", "signal", "reason", "stdout_bytes", "stderr_bytes")

# Built once, and filled in by parameters: to build a statement takes longer than to run it.
_ADD = sa.insert(commands)
_ADD_EVENTS = sa.insert(events)
_KNOWN = sa.select(commands.c.id).where(commands.c.id.in_(sa.bindparam("ids", expanding=True)))
_THESE = sa.select(*RECORD).where(commands.c.id.in_(sa.bindparam("ids", expanding=True)))
_OPEN = sa.select(*RECORD).where(commands.c.outcome.is_(None)).order_by(commands.c.started_at).limit(OPEN_AT_ONCE)
_END = (
    sa.update(commands)
    .where(commands.c.id == sa.bindparam("of"), commands.c.outcome.is_(None))
    .values({name: sa.bindparam(name) for name in _ENDING})
    .returning(*RECORD)
)
_TELL = (
    sa.update(sandboxes)
    .where(sandboxes.c.id == sa.bindparam("of"))
    .values(sequence=sandboxes.c.sequence + sa.bindparam("count"))
    .returning(sandboxes.c.sequence)
)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a command ended, to be written unless another ending was before it. `ended_at` is epoch ms of the host."""

    id: str
    ended_at: int
    outcome: Outcome
    exit_code: int | None = None
    signal: int | None = None
    reason: str | None = None
    stdout_bytes: int | None = None
    stderr_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class CommandPage:
    """Commands, newest first, and where the next page begins."""

    items: Sequence[Command]
    next_cursor: str | None


class CommandRows:
    """The records of all commands. Every method raises `Unavailable` when the store is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(
        self, opened: Sequence[Command], ended: Sequence[Ending], notes: Sequence[Note] = ()
    ) -> Mapping[str, Command]:
        """Write beginnings and ends in one transaction, each once however often it is written, and notes; the rows of
        the ends as they then are: where another end was written before, that one."""
        try:
            return await self._write(opened, ended, notes, again=False)
        except IntegrityError:  # a beginning was written before, and the word of it was lost
            return await self._write(opened, ended, notes, again=True)

    async def _write(
        self, opened: Sequence[Command], ended: Sequence[Ending], notes: Sequence[Note], *, again: bool
    ) -> Mapping[str, Command]:
        ends = {ending.id: ending for ending in ended}
        async with self._database.writing() as connection:
            known = ends.keys() - {one.id for one in opened}
            if again:
                known |= set((await connection.execute(_KNOWN, {"ids": [one.id for one in opened]})).scalars())
            new = [_ended(one, ends.get(one.id)) for one in opened if one.id not in known]
            if new:
                await connection.execute(_ADD, [_values(row) for row in new])
            tried = [await _end(connection, ends[name]) for name in ends if name in known]
            settled = [row for row in tried if row is not None]
            await tell(connection, new, [row for row in (*new, *settled) if row.outcome is not None], notes)
            rows = {row.id: row for row in (*new, *settled)}
            lost = await _read(connection, [name for name in ends if name in known and name not in rows])
            return {name: row for name, row in {**rows, **{row.id: row for row in lost}}.items() if name in ends}

    async def get(self, command_id: str) -> Command | None:
        """One record."""
        async with self._database.reading() as connection:
            found = await _read(connection, [command_id])
        return found[0] if found else None

    async def page(self, sandbox_id: str, cursor: str | None, limit: int) -> CommandPage:
        """A page of a sandbox's records, newest first.

        Raises:
            Invalid: the cursor is none of ours.
        """
        query = sa.select(*RECORD).where(commands.c.sandbox == sandbox_id)
        if cursor is not None:
            at, command_id = read_cursor(cursor)
            same = sa.and_(commands.c.started_at == at, commands.c.id < command_id)
            query = query.where(sa.or_(commands.c.started_at < at, same))
        query = query.order_by(commands.c.started_at.desc(), commands.c.id.desc()).limit(limit + 1)
        async with self._database.reading() as connection:
            found = [command_of(row) for row in await connection.execute(query)]
        return CommandPage(
            found[:limit], cursor_of(found[limit - 1].started_at, found[limit - 1].id) if len(found) > limit else None
        )

    async def open(self) -> Sequence[Command]:
        """Records without an end, the oldest first, at most 10,000."""
        async with self._database.reading() as connection:
            return [command_of(row) for row in await connection.execute(_OPEN)]


async def _read(connection: AsyncConnection, ids: Sequence[str]) -> list[Command]:
    if not ids:
        return []
    return [command_of(row) for row in await connection.execute(_THESE, {"ids": ids})]


def _ended(command: Command, ending: Ending | None) -> Command:
    return command if ending is None else replace(command, **_changes(ending))


def _values(command: Command) -> dict[str, Any]:
    return {name: getattr(command, name) for name in Command.__slots__}


def _changes(ending: Ending) -> dict[str, Any]:
    return {name: getattr(ending, name) for name in _ENDING}


async def _end(connection: AsyncConnection, ending: Ending) -> Command | None:
    """The row with this ending, None where it has another already."""
    row = (await connection.execute(_END, {"of": ending.id, **_changes(ending)})).one_or_none()
    return None if row is None else command_of(row)


async def tell(
    connection: AsyncConnection, begun: Sequence[Command], over: Sequence[Command], notes: Sequence[Note] = ()
) -> None:
    """Write events behind each sandbox's last; the sequence alone moves, for the sandbox itself has not changed."""
    news = (
        [_started_event(row) for row in begun] + [_ended_event(row) for row in over] + [_noted(note) for note in notes]
    )
    counts = Counter(event["sandbox"] for event in news)
    following: dict[str, int] = {}
    for sandbox, count in sorted(counts.items()):
        moved = await connection.execute(_TELL, {"of": sandbox, "count": count})
        last: int | None = moved.scalar_one_or_none()
        if last is not None:
            following[sandbox] = last - count + 1
    rows = []
    for event in sorted(news, key=lambda event: event["at"]):
        sandbox = event["sandbox"]
        if sandbox in following:
            rows.append({**event, "sequence": following[sandbox]})
            following[sandbox] += 1
    if rows:
        await connection.execute(_ADD_EVENTS, rows)


def _started_event(row: Command) -> dict[str, Any]:
    data = {"processId": row.id, "kind": row.kind, "background": row.background}
    return _event(row, EventType.COMMAND_STARTED, row.started_at, row.started_by, data)


def _ended_event(row: Command) -> dict[str, Any]:
    data = {"processId": row.id, "outcome": row.outcome, "exitCode": row.exit_code}
    return _event(row, EventType.COMMAND_ENDED, row.ended_at or row.started_at, "system", data)


def _noted(note: Note) -> dict[str, Any]:
    return {
        "sandbox": note.sandbox,
        "organisation": note.organisation,
        "type": note.type,
        "at": note.at,
        "actor": note.actor,
        "data": orjson.dumps(note.data).decode(),
    }


def _event(row: Command, kind: EventType, at: int, actor: str, data: Mapping[str, object]) -> dict[str, Any]:
    return {
        "sandbox": row.sandbox,
        "organisation": row.organisation,
        "type": kind,
        "at": at,
        "actor": actor,
        "data": orjson.dumps(data).decode(),
    }


def command_of(row: "sa.Row[Any]") -> Command:
    """The record in a row of the columns `RECORD`."""
    values = dict(zip(Command.__slots__, row, strict=False))
    values["outcome"] = None if values["outcome"] is None else Outcome(values["outcome"])
    return Command(**values)
