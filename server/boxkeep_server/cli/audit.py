"""`boxkeep audit`: everything that happened in and to all sandboxes, and who did it, as JSON lines."""

import asyncio
import sys
from datetime import UTC, datetime
from typing import Annotated

import orjson
import typer

from boxkeep_server.cli.session import become_account, fail, settings
from boxkeep_server.model.errors import BoxkeepError


def audit(
    organisation: Annotated[str | None, typer.Option(help="Only this organisation's, by name or id.")] = None,
    sandbox: Annotated[str | None, typer.Option(help="Only this sandbox's, by id.")] = None,
    since: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="Only from then on, a date or time of UTC."),
    ] = None,
) -> None:
    """Print what happened, oldest first, as JSON lines: the rows that timelines are read from."""
    begin = 0 if since is None else int(since.replace(tzinfo=UTC).timestamp() * 1000)
    try:
        asyncio.run(_print(organisation, sandbox, begin))
    except BoxkeepError as error:
        fail(error.sentence)


async def _print(organisation: str | None, sandbox: str | None, since: int) -> None:
    from boxkeep_server import serving  # noqa: PLC0415
    from boxkeep_server.web.views import happening  # noqa: PLC0415

    read = settings()
    become_account(read)
    async with serving.open_audit(read) as rows:
        async for event in rows.read(organisation=organisation, sandbox=sandbox, since=since):
            line = {"id": event.id, "organisation": event.organisation, "sandbox": event.sandbox, **happening(event)}
            sys.stdout.write(orjson.dumps(line).decode() + "\n")


def add_to(parent: typer.Typer) -> None:
    """Add the command of this file."""
    parent.command()(audit)
