"""The control plane of an instance over its store: served until it is told to stop, or opened by its operator."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import uvicorn
import uvloop

from boxkeep_server.compose import Control, control_over
from boxkeep_server.control.audit import Audit
from boxkeep_server.control.clocks import boot_id, host_clock, monotonic_ms, now_ms
from boxkeep_server.control.keys import Keys
from boxkeep_server.control.reconcile import runner
from boxkeep_server.control.reconcile.follow import remembered
from boxkeep_server.engine.gone import GoneEngine
from boxkeep_server.engine.interface import Engine
from boxkeep_server.engine.local import LocalEngine
from boxkeep_server.gateway.keeper import Keeper
from boxkeep_server.guestwire import GuestPool
from boxkeep_server.model.clocks import SteadyClock
from boxkeep_server.model.errors import TimedOut
from boxkeep_server.model.sandboxes import Reason
from boxkeep_server.nodes.client import NodeClient
from boxkeep_server.settings import Settings
from boxkeep_server.store.database import Database
from boxkeep_server.web.app import build
from boxkeep_server.web.heads import BoundedHeads

STOP_WITHIN_S = 5
END_WITHIN_S = 60
KEEP_ALIVE_S = 75


@asynccontextmanager
async def opened(settings: Settings, engine: Engine, clock: SteadyClock) -> AsyncIterator[Control]:
    """A control plane over the store of an instance and an engine, whose clock goes on where that of the process before
    was."""
    database = await Database.open(settings.database_url)
    guests = GuestPool()
    try:
        await remembered(database, clock, boot_id())
        yield control_over(settings, database, engine, guests, clock)
    finally:
        await guests.close()
        await database.close()


@asynccontextmanager
async def open_keys(settings: Settings) -> AsyncIterator[Keys]:
    """The keys and organisations of an instance."""
    database = await Database.open(settings.database_url)
    try:
        yield Keys(database, now_ms, monotonic_ms)
    finally:
        await database.close()


@asynccontextmanager
async def open_audit(settings: Settings) -> AsyncIterator[Audit]:
    """The audit log of an instance."""
    database = await Database.open(settings.database_url)
    try:
        yield Audit(database)
    finally:
        await database.close()


async def end_all(settings: Settings) -> Sequence[str]:
    """Write that every sandbox was ended by the operator, all machines being gone; their ids.

    Raises:
        TimedOut: not all were written.
    """
    async with opened(settings, GoneEngine(), host_clock()) as control:
        release = asyncio.create_task(runner.run(control.rounds_of("release"), control.changes))
        try:
            done = await control.sandboxes.end_all(Reason.OPERATOR_SHUTDOWN, END_WITHIN_S)
        finally:
            await _stopped(release)
            await control.close()
    if done.left:
        raise TimedOut(f"{len(done.left)} sandboxes were not ended within {END_WITHIN_S} s")
    return done.ended


async def _stopped(task: "asyncio.Task[None]") -> None:
    """End a task that runs for ever.

    Raises:
        BaseException: what it had ended with before.
    """
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def serve(settings: Settings) -> None:
    """Run the control plane until SIGTERM or SIGINT; then finish what is being answered and return.

    Raises:
        Unavailable: the store is away.
        BaseException: what ended a part that runs for ever.
    """
    os.umask(0o077)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises what stopped it once more when it has stopped; nothing may end us before all is written.
        signal.signal(number, lambda *_: None)
    uvloop.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    clock = host_clock()
    async with (
        NodeClient(settings.node_socket) as node,
        opened(settings, LocalEngine(node, clock.jump_ms), clock) as control,
    ):
        server = uvicorn.Server(
            uvicorn.Config(
                build(control.parts),
                host=settings.control.listen,
                port=settings.control.port,
                http=BoundedHeads,
                ws="websockets-sansio",
                access_log=False,
                server_header=False,
                log_config=None,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=STOP_WITHIN_S,
            )
        )
        work = asyncio.create_task(_run(control))
        work.add_done_callback(lambda _: setattr(server, "should_exit", True))
        try:
            await server.serve()
        finally:
            await _stopped(work)


async def _run(control: Control) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(control.run())
        tasks.create_task(Keeper(control.parts.attendance).run())
