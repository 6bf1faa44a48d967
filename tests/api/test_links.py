"""Links between the machines of a sandbox, under a real guest: who comes to a browser's port is passed on to it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

import pytest_asyncio

from boxkeep_server.control.companions import Companions
from boxkeep_server.control.liveness import Liveness
from boxkeep_server.control.reconcile.link import OF_ONE, Link
from boxkeep_server.control.visits import Visits
from boxkeep_server.guestwire import GuestPool
from boxkeep_server.model.browsers import DEVTOOLS, NAME, PAIRED
from boxkeep_server.model.companions import Companion, CompanionState
from boxkeep_server.model.sandboxes import NewSandbox, Sandbox
from boxkeep_server.store import companions
from tests.api.stage import Stage
from tests.guests import GuestProgram, eventually

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Linked:
    """A sandbox whose browser is another program of the same guest, and one process that links them."""

    def __init__(self, stage: Stage, pool: GuestPool, sandbox: Sandbox) -> None:
        self.stage, self.pool, self.sandbox = stage, pool, sandbox
        self.came: asyncio.Queue[Streams] = asyncio.Queue()
        self.open: list[asyncio.StreamWriter] = []
        self.begin()

    def begin(self) -> None:
        """A process that knows nothing yet."""
        liveness = Liveness(self.stage.sandboxes.states, lambda: asyncio.sleep(0.2))
        self.watching = asyncio.create_task(liveness.run())
        visits = Visits(self.stage.reacher, self.pool, liveness, self.stage.clock, self.stage.pausing.awake)
        self.link = Link(self.stage.database, Companions(self.stage.database, self.stage.steps, visits), visits)

    async def end(self) -> None:
        """End the process."""
        await self.link.crowd.close()
        self.watching.cancel()
        await asyncio.gather(self.watching, return_exceptions=True)

    async def run(self) -> int:
        """Have it look, until it listens; where."""
        assert await self.link.run_once() == 1
        await eventually(lambda: self.link.port(self.sandbox.id) is not None)
        port = self.link.port(self.sandbox.id)
        assert port is not None
        return port

    async def program(self, port: int) -> Streams:
        """A program of the sandbox's that has come."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        self.open.append(writer)
        return reader, writer

    async def browser_at(self, port: int | None) -> None:
        """Have it be known where the browser is."""
        ports = {} if port is None else {DEVTOOLS: port}
        new = Companion(self.sandbox.id, self.sandbox.organisation, NAME, 1, 0, 0, CompanionState.READY, ports)
        async with self.stage.database.writing() as connection:
            before = await companions.begin(connection, new)
            assert await companions.change(connection, before, replace(before, ports=ports), None, "me")


@pytest_asyncio.fixture
async def linked(stage: Stage, pool: GuestPool, key: str, guest_program: GuestProgram) -> AsyncIterator[Linked]:
    wish = NewSandbox(runtime="base", capabilities={"browser": {"mode": PAIRED}})
    made = await stage.sandboxes.create(await stage.keys.authenticate(key), wish)
    sandbox = await stage.sandboxes.state(await stage.make_ready(made.id, guest_program.address))
    assert sandbox is not None
    one = Linked(stage, pool, sandbox)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        one.open.append(writer)
        await one.came.put((reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    await one.browser_at(server.sockets[0].getsockname()[1])
    yield one
    await one.end()
    server.close()
    for writer in one.open:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def test_what_a_program_says_reaches_the_browser_and_what_that_answers_comes_back(linked: Linked) -> None:
    port = await linked.run()
    for _ in range(3):
        reader, writer = await linked.program(port)
        writer.write(b"x" * 300_000)
        writer.write_eof()
        browser, answer = await asyncio.wait_for(linked.came.get(), 10)
        assert await browser.read() == b"x" * 300_000
        answer.write(b"y" * 300_000)
        answer.close()
        assert await reader.read() == b"y" * 300_000


async def test_several_speak_at_once_and_those_over_the_bound_wait(linked: Linked) -> None:
    port = await linked.run()
    clients = [await linked.program(port) for _ in range(OF_ONE + 1)]
    served = [await asyncio.wait_for(linked.came.get(), 10) for _ in range(OF_ONE)]
    assert linked.came.empty()
    for _, writer in served[:1]:
        writer.close()
    for _, writer in clients:
        writer.write_eof()
    await asyncio.wait_for(linked.came.get(), 10)


async def test_who_comes_while_there_is_no_browser_is_sent_away_and_the_next_is_served(linked: Linked) -> None:
    port = await linked.run()
    for nowhere in (None, 1):
        await linked.browser_at(nowhere)
        reader, _ = await linked.program(port)
        assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_who_leaves_takes_nothing_along(linked: Linked) -> None:
    port = await linked.run()
    _, writer = await linked.program(port)
    writer.write(b"bye")
    browser, _ = await asyncio.wait_for(linked.came.get(), 10)
    writer.transport.abort()
    assert await asyncio.wait_for(browser.read(), 10) in (b"", b"bye")


async def test_a_process_after_ours_listens_at_the_same_port(linked: Linked) -> None:
    port = await linked.run()
    await linked.end()
    linked.begin()
    assert await linked.run() == port
    await linked.program(port)
    await asyncio.wait_for(linked.came.get(), 10)


async def test_the_end_of_the_sandbox_ends_the_link(linked: Linked) -> None:
    port = await linked.run()
    reader, _ = await linked.program(port)
    await asyncio.wait_for(linked.came.get(), 10)
    await linked.stage.fail(linked.sandbox.id, "machine_died")
    await asyncio.wait_for(linked.link.crowd.settled(), 10)
    assert linked.link.port(linked.sandbox.id) is None
    assert await linked.link.run_once() == 0
    assert await asyncio.wait_for(reader.read(), 10) == b""
