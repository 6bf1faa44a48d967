"""Bytes passed on between two sides, until one of them ends."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

_BLOCK: Final = 64 << 10


async def until_one_ends(*both: Coroutine[Any, Any, object]) -> None:
    """Run both until one ends, and cancel the other. What the one raised is raised."""
    tasks = [asyncio.create_task(one) for one in both]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes, to its end, as fast as it is taken."""
    while data := await reader.read(_BLOCK):
        writer.write(data)
        await writer.drain()
