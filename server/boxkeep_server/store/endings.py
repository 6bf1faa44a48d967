"""The ends of commands whose sandbox ended under them."""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.model.commands import Outcome
from boxkeep_server.store.schema import commands


async def settle_open(connection: AsyncConnection, sandbox: str, *, outcome: Outcome, reason: str, at: int) -> int:
    """Give every open command of a sandbox this outcome; how many there were. What has an outcome keeps it."""
    still_open = sa.and_(commands.c.sandbox == sandbox, commands.c.outcome.is_(None))
    ended = sa.case((commands.c.started_at > at, commands.c.started_at), else_=at)
    changed = await connection.execute(
        sa.update(commands).where(still_open).values(outcome=outcome, reason=reason, ended_at=ended)
    )
    return changed.rowcount


async def keep_tails(connection: AsyncConnection, sandbox: str, command: str, stdout: bytes, stderr: bytes) -> None:
    """Keep the last output of a command that its sandbox's end cut off."""
    cut_off = sa.and_(
        commands.c.id == command,
        commands.c.sandbox == sandbox,
        commands.c.outcome.in_((Outcome.SANDBOX_ENDED, Outcome.OUT_OF_MEMORY)),
    )
    await connection.execute(sa.update(commands).where(cut_off).values(stdout_tail=stdout, stderr_tail=stderr))


async def forget(connection: AsyncConnection, sandboxes: list[str]) -> None:
    """Delete the commands of sandboxes that are forgotten."""
    await connection.execute(sa.delete(commands).where(commands.c.sandbox.in_(sandboxes)))
