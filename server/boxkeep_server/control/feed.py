"""Feeds a command an input that is too large for the request that starts it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from boxkeep_server.control.launches import Launch
from boxkeep_server.control.visits import Visit
from boxkeep_server.model.commands import Command
from boxkeep_server.model.errors import BoxkeepError, NotFound

STEP = 256 * 1024
NOT_YET_S = 0.01
TRIES = 500


@asynccontextmanager
async def feeding(visit: Visit, command: Command, launch: Launch) -> AsyncIterator[None]:
    """Within it a large input goes to the command, beside whatever is done there; nothing happens for a small one."""
    if not launch.fed:
        yield
        return
    task = asyncio.create_task(feed(visit, command, launch.stdin or b""))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def feed(visit: Visit, command: Command, data: bytes) -> None:
    """Send all of it and close the command's input. A command that ends before it has read it all is no fault."""
    for _ in range(TRIES):
        try:
            await visit.upload({"op": "process.stdin", "id": command.id, "close": True}, _pieces(data))
        except NotFound:
            await asyncio.sleep(NOT_YET_S)
        except BoxkeepError:
            return
        else:
            return


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), STEP):
        yield data[at : at + STEP]
