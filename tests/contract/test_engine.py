"""What every engine promises, held to by the fake of the tests and by the local one over a real node API."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from boxkeep_server.engine.interface import AlreadyReleased, Engine, NodeAway, NoRoom, Unsupported
from boxkeep_server.engine.local import LocalEngine
from boxkeep_server.model.node_api import ClaimHint, ClaimState, DeathReason
from boxkeep_server.node.api import Api, serve
from boxkeep_server.nodes.client import NodeClient
from tests.engines import MemoryEngine
from tests.node_hosts import Host
from tests.node_layers import Layer
from tests.node_worlds import adopted, wish

SLOTS = 3


@dataclass
class Subject:
    """An engine over one node with three slots, and the way to kill a machine of it."""

    engine: Engine
    kill: Callable[[str], None]


async def memory(_: Path) -> AsyncIterator[Subject]:
    engine = MemoryEngine(lambda: 1_000_000, SLOTS)
    yield Subject(engine, lambda sandbox: engine.die(sandbox, DeathReason.EXITED, 1_000_000))


async def local(directory: Path) -> AsyncIterator[Subject]:
    host = Host(directory)
    service = await adopted(Layer(host), slots=SLOTS)
    socket = directory / "node.sock"
    runner = await serve(Api(service, frozenset({os.getuid()})).application(), socket, os.getgid())

    def kill(sandbox: str) -> None:
        host.die(next(claim.machine for claim in service.claims.list() if claim.sandbox == sandbox))

    try:
        async with NodeClient(socket) as node:
            yield Subject(LocalEngine(node), kill)
    finally:
        await runner.cleanup()
        await service.crew.dismiss()


@pytest.fixture(params=[memory, local])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    async for one in request.param(tmp_path):
        yield one


@pytest.fixture
def engine(subject: Subject) -> Engine:
    return subject.engine


async def test_placing_again_gives_the_same_machine(engine: Engine) -> None:
    wanted = wish()
    node, first = await engine.place(wanted)
    assert (first.sandbox, first.epoch, first.state) == (wanted.sandbox, 1, ClaimState.RUNNING)
    for _ in range(2):
        where, again = await engine.place(wanted)
        assert (where, again.machine, again.secret) == (node, first.machine, first.secret)
    known = await engine.claim(node, wanted.sandbox, 1)
    assert known is not None
    assert known.machine == first.machine
    assert [claim.machine for claim in (await engine.claims())[node]] == [first.machine]
    assert [facts.slots_used for facts in await engine.nodes()] == [1]


async def test_placing_at_once_gives_the_same_machine(engine: Engine) -> None:
    wanted = wish()
    placed = await asyncio.gather(*(engine.place(wanted) for _ in range(5)))
    assert len({claim.machine for _, claim in placed}) == 1


async def test_a_released_epoch_gets_no_machine_any_more(engine: Engine) -> None:
    wanted = wish()
    node, _ = await engine.place(wanted)
    for _ in range(2):
        await engine.release(node, wanted.sandbox, 1)
    assert await engine.claims() == {node: ()}
    assert await engine.claim(node, wanted.sandbox, 1) is None
    with pytest.raises(AlreadyReleased):
        await engine.place(wanted)
    assert (await engine.place(wish(wanted.sandbox, epoch=2)))[1].epoch == 2


async def test_what_was_never_placed_is_released_and_stays_so(engine: Engine) -> None:
    wanted = wish()
    await engine.release(None, wanted.sandbox, 1)
    with pytest.raises(AlreadyReleased):
        await engine.place(wanted)


async def test_an_older_epoch_is_refused_beside_a_later_one(engine: Engine) -> None:
    later = wish(epoch=2)
    await engine.place(later)
    with pytest.raises(AlreadyReleased):
        await engine.place(wish(later.sandbox, epoch=1))


async def test_a_full_node_has_no_room_until_one_is_released(engine: Engine) -> None:
    wishes = [wish() for _ in range(SLOTS)]
    for one in wishes:
        node, _ = await engine.place(one)
    refused = wish()
    with pytest.raises(NoRoom):
        await engine.place(refused)
    await engine.release(node, wishes[0].sandbox, 1)
    assert (await engine.place(refused))[1].sandbox == refused.sandbox


async def test_what_a_node_has_not_is_unsupported(engine: Engine) -> None:
    with pytest.raises(Unsupported):
        await engine.place(wish(image="none-such"))


async def test_each_role_of_a_sandbox_has_its_own_machine_end_time_snapshot_and_end(engine: Engine) -> None:
    sandbox = wish().sandbox
    for role in ("main", "browser"):
        node, _ = await engine.place(wish(sandbox, role=role, isolation="runsc"))
    await engine.extend(node, sandbox, 1, 9_000_000, "browser")
    known = {claim.role: claim for claim in (await engine.claims())[node]}
    assert known["main"].machine != known["browser"].machine
    assert known["main"].not_after != known["browser"].not_after == 9_000_000
    kept = await engine.pause(node, sandbox, 1, "browser", if_idle=False, or_files=True)
    assert (kept.role, kept.name) == ("browser", f"{sandbox}-1-browser")
    assert await engine.claim(node, sandbox, 1, "browser") is None
    await engine.release(node, sandbox, 1)
    assert await engine.claims() == {node: ()}
    await engine.discard(node, sandbox, 1)
    assert [one.name for one in (await engine.snapshots())[node]] == [kept.name]
    _, resumed = await engine.place(wish(sandbox, 2, role="browser", isolation="runsc", resume=1))
    assert (resumed.role, resumed.epoch) == ("browser", 2)
    await engine.discard(node, sandbox, 1, "browser")
    assert (await engine.snapshots())[node] == ()


async def test_an_end_time_is_told(engine: Engine) -> None:
    wanted = wish()
    node, _ = await engine.place(wanted)
    await engine.extend(node, wanted.sandbox, 1, 9_000_000)
    claim = await engine.claim(node, wanted.sandbox, 1)
    assert claim is not None
    assert claim.not_after == 9_000_000
    await engine.extend(node, "z" * 32, 1, 9_000_000)


async def test_the_dead_stay_listed_until_they_are_released(subject: Subject) -> None:
    wanted = wish()
    node, _ = await subject.engine.place(wanted)
    subject.kill(wanted.sandbox)
    async with asyncio.timeout(5):
        while (await subject.engine.claims())[node][0].state is not ClaimState.DEAD:
            await asyncio.sleep(0.01)
    _, again = await subject.engine.place(wanted)
    assert (again.state, again.reason) == (ClaimState.DEAD, DeathReason.EXITED)
    await subject.engine.release(node, wanted.sandbox, 1)
    assert await subject.engine.claims() == {node: ()}


async def test_nothing_is_leaked(engine: Engine) -> None:
    await engine.place(wish())
    assert (await engine.leaks()).total == 0


async def test_a_death_is_hinted_at(tmp_path: Path) -> None:
    heard: list[ClaimHint] = []

    async def listen(engine: Engine) -> None:
        async for hint in engine.watch():
            heard.append(hint)

    async for subject in local(tmp_path):
        wanted = wish()
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(listen(subject.engine))
            while not heard:  # until the listener is heard, so that nothing is said before it listens
                await subject.engine.place(wish(wanted.sandbox))
                await asyncio.sleep(0.05)
                await subject.engine.extend("n" * 32, wanted.sandbox, 1, 6_000_000)
            subject.kill(wanted.sandbox)
            while (wanted.sandbox, 1, ClaimState.DEAD) not in [(one.sandbox, one.epoch, one.state) for one in heard]:
                await asyncio.sleep(0.01)
            listening.cancel()


async def test_a_node_that_is_not_there_is_away(tmp_path: Path) -> None:
    async with NodeClient(tmp_path / "none.sock") as node:
        engine = LocalEngine(node)
        for call in (
            engine.nodes(),
            engine.claims(),
            engine.place(wish()),
            engine.release(None, "z" * 32, 1),
            engine.claim("n" * 32, "z" * 32, 1),
            engine.extend("n" * 32, "z" * 32, 1, 1),
            engine.leaks(),
        ):
            with pytest.raises(NodeAway):
                await call
        assert [hint async for hint in engine.watch()] == []


@pytest.mark.parametrize(
    "answer",
    [
        b"rubbish\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[[[[[[[[[",
        b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"",
    ],
)
async def test_an_answer_in_other_words_is_none(tmp_path: Path, answer: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_unix_server(talk, tmp_path / "node.sock")
    async with server, NodeClient(tmp_path / "node.sock") as node:
        with pytest.raises(NodeAway):
            await LocalEngine(node).nodes()
