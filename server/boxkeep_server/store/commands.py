"""Records of commands: written in groups, ended once."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.model.commands import Command, Outcome
from boxkeep_server.store.schema import commands

_RECORD = [commands.c[name] for name in Command.__slots__]
_INSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


async def add(connection: AsyncConnection, begun: Sequence[Command]) -> None:
    """Write commands that have begun; those that are written already stay as they are."""
    if begun:
        insert = _INSERTS[connection.dialect.name](commands).on_conflict_do_nothing(index_elements=["id"])
        rows = [{name: _clean(getattr(command, name)) for name in Command.__slots__} for command in begun]
        await connection.execute(insert, rows)


async def end(connection: AsyncConnection, command_id: str, values: Mapping[str, Any]) -> None:
    """Write how a command ended, unless an ending is written already."""
    still_open = sa.and_(commands.c.id == command_id, commands.c.outcome.is_(None))
    cleaned = {name: _clean(value) for name, value in values.items()}
    await connection.execute(sa.update(commands).where(still_open).values(cleaned))


async def get_all(connection: AsyncConnection, ids: Collection[str]) -> dict[str, Command]:
    """Those of `ids` that are there."""
    rows = await connection.execute(sa.select(*_RECORD).where(commands.c.id.in_(list(ids))))
    return {row.id: _record(row) for row in rows}


async def page(
    connection: AsyncConnection, sandbox: str, before: tuple[int, str] | None, limit: int
) -> Sequence[Command]:
    """Commands of a sandbox, newest first, from before (started_at, id)."""
    query = sa.select(*_RECORD).where(commands.c.sandbox == sandbox)
    if before is not None:
        at, command_id = before
        older = sa.or_(commands.c.started_at < at, sa.and_(commands.c.started_at == at, commands.c.id < command_id))
        query = query.where(older)
    rows = await connection.execute(query.order_by(commands.c.started_at.desc(), commands.c.id.desc()).limit(limit))
    return [_record(row) for row in rows]


async def still_open(connection: AsyncConnection, limit: int = 10_000) -> Sequence[Command]:
    """Commands without an outcome, oldest first."""
    query = sa.select(*_RECORD).where(commands.c.outcome.is_(None)).order_by(commands.c.started_at)
    return [_record(row) for row in await connection.execute(query.limit(limit))]


def _clean(value: Any) -> Any:
    """Text that every database takes: without lone surrogates and NUL, which command lines may hold."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
    return value


def _record(row: "sa.Row[Any]") -> Command:
    values = dict(zip(Command.__slots__, row, strict=True))
    values["outcome"] = None if values["outcome"] is None else Outcome(values["outcome"])
    return Command(**values)
