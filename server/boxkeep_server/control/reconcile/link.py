"""Link: what runs in the main machine of a sandbox comes to its browser in another, by a port of loopback and by us."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Final

from boxkeep_server.control.companions import Companions
from boxkeep_server.control.inside import read_count
from boxkeep_server.control.reconcile.crowd import Crowd
from boxkeep_server.control.visits import Duplex, Frame, Visits
from boxkeep_server.model.browsers import DEVTOOLS, DEVTOOLS_PORT, NAME
from boxkeep_server.model.errors import BoxkeepError, NotReady, SandboxFault
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.store import selections
from boxkeep_server.store.database import Database

AT_ONCE: Final = 10_000
OF_ONE: Final = 16
"""Programs of one sandbox that may be connected at once; others wait."""
CALM_S: Final = 0.05
"""Between two that are taken, however fast they come: each is work of ours."""

_log = logging.getLogger(__name__)


class Link:
    """Has guests listen at the port where a browser's protocol is looked for, and passes on who comes there to the one
    door of the browser. No network leads from one machine to the other: what comes through is bytes of connections
    that the main machine has begun, and no others. `visits` keep no sandbox awake."""

    def __init__(self, database: Database, companions: Companions, visits: Visits) -> None:
        self._database = database
        self._companions = companions
        self._visits = visits
        self._ports: dict[str, int] = {}
        self.crowd = Crowd(AT_ONCE)

    def port(self, sandbox_id: str) -> int | None:
        """The port of loopback in the main machine by which the browser is reached now; None while it is by none."""
        return self._ports.get(sandbox_id)

    async def run_once(self) -> int:
        """See that each is listened for that has a browser elsewhere; how many were begun with."""
        async with self._database.reading() as connection:
            found = await selections.with_sides(connection)
        return sum(self.crowd.start(one.id, partial(self._attend, one)) for one in found if NAME in one.sides)

    async def _attend(self, sandbox: Sandbox) -> None:
        try:
            async with asyncio.TaskGroup() as passing:
                await self._take(sandbox, passing)
        except* BoxkeepError as gone:  # a pause, the end of the sandbox, or its node is away: the next round tells
            _log.debug("nobody is taken from sandbox %s any more: %s", sandbox.id, gone.exceptions)
        finally:
            self._ports.pop(sandbox.id, None)

    async def _take(self, sandbox: Sandbox, passing: asyncio.TaskGroup) -> None:
        """Take one program after the other that comes, for as long as the sandbox is ready."""
        room = asyncio.Semaphore(OF_ONE)
        while True:
            await room.acquire()
            program, said = await self._accepted(sandbox)
            passing.create_task(self._serve(sandbox, program, said)).add_done_callback(lambda _: room.release())
            await asyncio.sleep(CALM_S)

    async def _accepted(self, sandbox: Sandbox) -> tuple[Duplex, AsyncGenerator[Frame, None]]:
        """A program that has come, and what it says. Raises `BoxkeepError`."""
        visit = await self._visits.of(sandbox.id)
        program = await visit.duplex({"op": "port.accept", "port": DEVTOOLS_PORT})
        try:
            self._ports[sandbox.id] = read_count(program.answer.get("port"))
            return program, await _come(program)
        except BaseException:
            await program.aclose()
            raise

    async def _serve(self, sandbox: Sandbox, program: Duplex, said: AsyncGenerator[Frame, None]) -> None:
        """Pass a program's words on to the browser, and back, until both have said all they had or either is gone."""
        async with aclosing(program), aclosing(said):
            try:
                async with (
                    aclosing(await self._dialled(sandbox)) as browser,
                    aclosing(browser.frames()) as answered,
                    asyncio.TaskGroup() as both,
                ):
                    both.create_task(_pass(program, said, browser))
                    both.create_task(_pass(browser, answered, program))
            except* BoxkeepError as gone:
                _log.debug(
                    "a program of sandbox %s and its browser have lost each other: %s", sandbox.id, gone.exceptions
                )

    async def _dialled(self, sandbox: Sandbox) -> Duplex:
        """A connection to the door of a sandbox's browser. Raises `BoxkeepError`."""
        known = (await self._companions.of(sandbox.id)).get(NAME)
        port = None if known is None else known.ports.get(DEVTOOLS)
        if port is None:
            raise NotReady
        visit = await self._visits.towards(NAME).of(sandbox.id)
        return await visit.duplex({"op": "port.dial", "port": port})


async def _come(program: Duplex) -> AsyncGenerator[Frame, None]:
    """What a program says, once it has come."""
    said = program.frames()
    first = await anext(said, None)
    if first is None or first.message != {"accepted": True}:
        raise SandboxFault
    return said


async def _pass(source: Duplex, said: AsyncGenerator[Frame, None], sink: Duplex) -> None:
    async for frame in said:
        if frame.stream != "stdout":
            raise SandboxFault
        await sink.send(frame.data)
    if not source.ended:
        raise SandboxFault("The connection broke off")
    await sink.end()
