"""Patience with what is away for a moment, as a node or a store that is being restarted."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from boxkeep_server.model.errors import Unavailable

AGAIN_S: Final = 0.5


async def while_away(work: Callable[[], Awaitable[None]], until: float) -> None:
    """Do work that may be repeated, again for as long as what it needs is away, until a time of the event loop's.

    Raises:
        Unavailable: it is away still; and whatever else `work` raises.
    """
    clock = asyncio.get_running_loop().time
    while True:
        try:
            return await work()
        except Unavailable:
            if clock() + AGAIN_S >= until:
                raise
        await asyncio.sleep(AGAIN_S)
