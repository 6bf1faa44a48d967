"""The ends of commands whose sandbox ended under them."""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.model.commands import Outcome
from boxkeep_server.store.commands import RECORD, command_of, tell
from boxkeep_server.store.schema import commands


async def settle_open(
    connection: AsyncConnection, sandbox: str, *, outcome: Outcome, reason: str, at: int, since: int = 0
) -> int:
    """Give every open command of a sandbox that began at `since` or later this outcome, with its event; how many there
    were.

    What has an outcome keeps it; what began after `at` ended when it began.
    """
    still_open = sa.and_(commands.c.sandbox == sandbox, commands.c.outcome.is_(None), commands.c.started_at >= since)
    ended_at = sa.case((commands.c.started_at > at, commands.c.started_at), else_=at)
    values = {"outcome": outcome, "reason": reason, "ended_at": ended_at}
    rows = await connection.execute(sa.update(commands).where(still_open).values(values).returning(*RECORD))
    ended = [command_of(row) for row in rows]
    await tell(connection, [], ended)
    return len(ended)


async def keep_tails(connection: AsyncConnection, sandbox: str, command: str, stdout: bytes, stderr: bytes) -> None:
    """Keep the last output of a command that its sandbox's end cut off."""
    cut_off = sa.and_(
        commands.c.id == command,
        commands.c.sandbox == sandbox,
        commands.c.outcome.in_((Outcome.SANDBOX_ENDED, Outcome.OUT_OF_MEMORY)),
    )
    await connection.execute(sa.update(commands).where(cut_off).values(stdout_tail=stdout, stderr_tail=stderr))
