"""The gateway as a process of its own: what it is made of, and what it tells the control plane that started it.

What strangers and sandboxes send is parsed here, so that however much of it there is, it costs the API no turn.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

import orjson
import uvloop

from boxkeep_server.control.changes import Changes
from boxkeep_server.control.clocks import host_clock, keep_in_step, monotonic_ms
from boxkeep_server.control.keys import Keys
from boxkeep_server.control.liveness import Liveness
from boxkeep_server.control.pausing import Pausing
from boxkeep_server.control.presence import Presence
from boxkeep_server.control.previews import Previews
from boxkeep_server.control.reach import Reacher
from boxkeep_server.control.sandboxes import Sandboxes
from boxkeep_server.control.steps import Steps
from boxkeep_server.control.visits import Visits
from boxkeep_server.engine.local import LocalEngine
from boxkeep_server.gateway.entrance import Entrance
from boxkeep_server.gateway.listener import Gateway
from boxkeep_server.gateway.room import Room
from boxkeep_server.gateway.vigil import Vigil
from boxkeep_server.gateway.visitor import Doors
from boxkeep_server.guestwire import GuestPool
from boxkeep_server.model.previews import PreviewUrls
from boxkeep_server.nodes.client import NodeClient
from boxkeep_server.settings import Settings
from boxkeep_server.store.database import Database
from boxkeep_server.store.sealing import Seal, key_file
from boxkeep_server.web.tokens import Tokens

NICENESS: Final = 5
"""Below the API: where the processor is short, a command goes before a page."""


def doors_over(
    keys: Keys, tokens: Tokens, previews: Previews, urls: PreviewUrls, presence: Presence, *, believed: bool
) -> Doors:
    """What visitors pass through."""
    entrance = Entrance(keys, tokens, previews, urls)
    return Doors(
        urls=urls,
        entrance=entrance,
        vigil=Vigil(entrance.holds),
        previews=previews,
        presence=presence,
        room=Room(),
        believed=believed,
    )


def serve_previews(settings: Settings, control: int) -> None:
    """Serve until the control plane, at the other end of the socket `control`, closes it or is gone.

    Raises:
        Unavailable: the port cannot be listened on, or the store is away.
    """
    os.nice(NICENESS)
    os.umask(0o077)
    uvloop.run(_serve(settings, socket.socket(fileno=control)))


async def _serve(settings: Settings, control: socket.socket) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=control)
    presence = Presence()
    try:
        async with _composed(settings, presence) as work:
            tasks = [asyncio.create_task(one) for one in (*work, _tell(presence, writer), reader.read())]
            done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)
            for task in done:
                task.result()
    finally:
        writer.close()


async def _tell(presence: Presence, writer: asyncio.StreamWriter) -> None:
    """Tell the control plane who is where, a line of JSON each time; it is gone when it cannot be told."""
    with suppress(OSError):
        async with aclosing(presence.reports()) as reports:
            async for sandboxes in reports:
                writer.write(orjson.dumps(sorted(sandboxes)) + b"\n")
                await writer.drain()


@asynccontextmanager
async def _composed(settings: Settings, presence: Presence) -> AsyncIterator[tuple[Coroutine[Any, Any, None], ...]]:
    """As much of a control plane as previews need, and the gateway before it; what is to be run of them."""
    database = await Database.open(settings.database_url)
    guests = GuestPool()
    try:
        async with NodeClient(settings.node_socket) as node:
            own = settings.lib / "control"
            clock = host_clock()
            steps = Steps(database, changes := Changes(), clock.now_ms)
            sandboxes = Sandboxes(database, steps, changes, Seal(key_file(own / "seal.key")))
            reacher = Reacher(sandboxes, LocalEngine(node, clock.jump_ms), guests)
            liveness = Liveness(sandboxes.states, partial(asyncio.sleep, 1.0))
            pausing = Pausing(database, steps, sandboxes)
            visits = Visits(reacher, guests, liveness, monotonic_ms, pausing.awake)
            doors = doors_over(
                Keys(database, clock.now_ms, monotonic_ms),
                Tokens(key_file(own / "tokens.key"), clock.now_ms),
                Previews(database, steps, sandboxes, visits),
                PreviewUrls.below(settings.preview_url),
                presence,
                believed=settings.control.preview_url is not None,
            )
            gateway = Gateway(doors, settings.control.listen, settings.control.preview_port)
            yield gateway.run(), liveness.run(), keep_in_step(database, clock)
    finally:
        await guests.close()
        await database.close()
