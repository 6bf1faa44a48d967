"""The host side against guests that answer rubbish, endlessly, slowly, hugely, or not at all."""

import asyncio
import json
import os
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from boxkeep_server.guestwire import (
    GuestAddress,
    GuestError,
    GuestPool,
    GuestProtocolError,
    GuestRefused,
    GuestTimeout,
    GuestUnreachable,
)
from boxkeep_server.guestwire.address import mac_of
from boxkeep_server.guestwire.connection import MACHINE_BYTES_MOST
from boxkeep_server.guestwire.pool import IDLE_MOST
from tests.guests import resident

pytest_plugins = ["tests.guest_fixtures"]

MIB = 1024 * 1024
SECRET = b"k" * 32
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Serve = Callable[["HostileGuest"], Awaitable[None]]


class HostileGuest:
    """The guest's side of one connection, for a test to do with as it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, kind: int, payload: bytes = b"") -> None:
        self.writer.write(struct.pack(">IB", len(payload), kind) + payload)
        await self.writer.drain()

    async def json(self, message: object) -> None:
        await self.send(1, json.dumps(message).encode())

    async def receive(self) -> tuple[int, bytes]:
        length, kind = struct.unpack(">IB", await self.reader.readexactly(5))
        return kind, await self.reader.readexactly(length)

    async def greet(self) -> None:
        await self.json({"wire": [1], "guest": "hostile", "nonce": "ab" * 32})
        hello = json.loads((await self.receive())[1])
        address = GuestAddress("", 0, hello["machine"], hello["epoch"], SECRET)
        await self.json({"ok": True, "mac": mac_of("guest", address, "ab" * 32, hello["nonce"])})


@asynccontextmanager
async def hostile(serve: Serve, greet: bool = True) -> AsyncIterator[GuestAddress]:
    tasks: set[asyncio.Task[Any]] = set()
    count = 0

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        guest = HostileGuest(reader, writer)
        try:
            if greet:
                await guest.greet()
            await serve(guest)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    yield GuestAddress("127.0.0.1", server.sockets[0].getsockname()[1], "m" * 32, 1, SECRET)
    server.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def answering(*frames: tuple[int, bytes]) -> Serve:
    async def serve(guest: HostileGuest) -> None:
        while True:
            await guest.receive()
            for kind, payload in frames:
                await guest.send(kind, payload)

    return serve


async def take(pool: GuestPool, address: GuestAddress, request: dict[str, Any], **limits: float) -> None:
    async with pool.download(address, request, **limits) as download:
        async for _ in download:
            pass


RUBBISH = [
    (1, b"[]"), (1, b"{"), (1, b'{"ok": 1}'), (1, b"{}"), (1, b"\xff\xff"), (1, b"[" * 100_000), (2, b"data"), (4, b""),
    (9, b""), (1, b'{"error": {"code": "made up", "message": "x"}}'), (1, b'{"error": {"code": ["x"], "message": 1}}'),
    (1, b'{"a":' * 40 + b"1" + b"}" * 40), (2, b""), (1, b'{"ok": true, "x": Infinity}'),
]  # fmt: skip


@pytest.mark.parametrize("frame", RUBBISH)
async def test_rubbish_for_an_answer_is_a_breach(pool: GuestPool, frame: tuple[int, bytes]) -> None:
    async with hostile(answering(frame)) as address:
        with pytest.raises(GuestProtocolError):
            await pool.call(address, {"op": "ping"}, timeout=5)
        assert not pool._machines


@pytest.mark.parametrize(
    "greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\0\2\1[]", b"\0\0\xff\xff\1", b"\0\0\0\2\1{}"]
)
async def test_who_is_no_guest_is_told_apart(pool: GuestPool, greeting: bytes) -> None:
    async def serve(guest: HostileGuest) -> None:
        guest.writer.write(greeting)
        await guest.reader.read()

    async with hostile(serve, greet=False) as address:
        with pytest.raises(GuestProtocolError):
            await pool.call(address, {"op": "ping"})


async def test_a_neighbour_with_another_secret_is_not_taken_for_the_machine(pool: GuestPool) -> None:
    async def serve(guest: HostileGuest) -> None:
        await guest.json({"wire": [1], "guest": "x", "nonce": "ab" * 32})
        await guest.receive()
        await guest.json({"ok": True, "mac": "00" * 32})
        await guest.receive()

    async with hostile(serve, greet=False) as address:
        with pytest.raises(GuestProtocolError, match="not the machine meant"):
            await pool.call(address, {"op": "ping"})


async def test_silence_is_bounded_at_every_step() -> None:
    async def silent(guest: HostileGuest) -> None:
        await guest.reader.read()

    async def dripping(guest: HostileGuest) -> None:
        while True:
            guest.writer.write(b"\0")
            await asyncio.sleep(0.02)

    async def no_more(guest: HostileGuest) -> None:
        await guest.receive()
        await guest.json({"ok": True})
        await guest.reader.read()

    impatient = GuestPool(connect_seconds=0.3, handshake_seconds=0.3)
    for serve, greet in ((silent, False), (silent, True)):
        async with hostile(serve, greet) as address:
            with pytest.raises(GuestTimeout):
                await impatient.call(address, {"op": "ping"}, timeout=0.3)
    async with hostile(dripping, greet=False) as address:
        with pytest.raises(GuestError):
            await impatient.call(address, {"op": "ping"}, timeout=0.3)
    async with hostile(no_more) as address:
        with pytest.raises(GuestTimeout):
            await take(impatient, address, {"op": "file.list", "path": "/"}, idle=0.3)
    await impatient.close()


async def test_nobody_there_is_unreachable(pool: GuestPool) -> None:
    with pytest.raises(GuestUnreachable):
        await pool.call(GuestAddress("127.0.0.1", 1, "m" * 32, 1, SECRET), {"op": "ping"})


async def test_an_endless_download_is_held_back_while_nobody_takes_it(pool: GuestPool) -> None:
    sent = 0

    async def endless(guest: HostileGuest) -> None:
        nonlocal sent
        await guest.receive()
        await guest.json({"ok": True})
        while True:
            await guest.send(2, b"x" * 200_000)
            sent += 200_000

    async with hostile(endless) as address:
        before = resident(os.getpid())
        async with pool.download(address, {"op": "process.follow"}) as download:
            frames = aiter(download)
            await anext(frames)
            still = -1
            while sent != still:
                still = sent
                await asyncio.sleep(0.1)
            assert sent < 40 * MIB  # what the kernel's buffers and ours hold
            for _ in range(200):
                await anext(frames)
        assert resident(os.getpid()) - before < 30 * MIB


async def test_many_connections_together_cannot_fill_memory(pool: GuestPool) -> None:
    async def half_a_frame(guest: HostileGuest) -> None:
        await guest.receive()
        await guest.json({"ok": True})
        guest.writer.write(struct.pack(">IB", MIB, 1) + b" " * (MIB - 1))
        await guest.reader.read()

    async with hostile(half_a_frame) as address:
        followers = [asyncio.create_task(take(pool, address, {"op": "process.follow"})) for _ in range(130)]
        done, _ = await asyncio.wait(followers, timeout=30, return_when=asyncio.FIRST_EXCEPTION)
        assert any(isinstance(task.exception(), GuestProtocolError) for task in done)
        (machine,) = pool._machines.values()
        assert machine.meter.held <= MACHINE_BYTES_MOST + MIB
        pool.forget(address)
        await asyncio.gather(*followers, return_exceptions=True)
        assert machine.meter.held == 0


@pytest.mark.parametrize(("said", "sent"), [(10, b"x" * 11), (10, b"x" * 9), (-1, b""), ("10", b"x" * 10)])
async def test_a_file_must_be_as_long_as_was_said(pool: GuestPool, said: object, sent: bytes) -> None:
    answer = json.dumps({"ok": True, "entry": {}, "offset": 0, "length": said}).encode()
    frames = [(1, answer), *([(2, sent)] if sent else []), (4, b"")]
    async with hostile(answering(*frames)) as address:
        with pytest.raises(GuestProtocolError):
            await take(pool, address, {"op": "file.read", "path": "/x"})


async def test_a_guest_that_speaks_unasked_loses_its_connection(pool: GuestPool) -> None:
    spoken = asyncio.Event()

    async def chatty(guest: HostileGuest) -> None:
        await guest.receive()
        await guest.json({"ok": True, "n": 1})
        await spoken.wait()
        await guest.json({"ok": True, "n": "for the next"})
        await guest.receive()
        await guest.json({"ok": True, "n": 2})
        await guest.reader.read()

    async with hostile(chatty) as address:
        assert (await pool.call(address, {"op": "ping"}))["n"] == 1
        spoken.set()
        await asyncio.sleep(0.1)
        assert (await pool.call(address, {"op": "ping"}))["n"] == 1  # by a fresh connection


async def test_a_kept_connection_that_ended_is_replaced_once_if_repeating_is_safe(pool: GuestPool) -> None:
    asked: list[str] = []

    async def leaving(guest: HostileGuest) -> None:
        asked.append(json.loads((await guest.receive())[1])["op"])
        await guest.json({"ok": True})
        asked.append(json.loads((await guest.receive())[1])["op"])
        guest.writer.close()

    async with hostile(leaving) as address:
        await pool.call(address, {"op": "ping"})
        await pool.call(address, {"op": "info"})
        assert asked == ["ping", "info", "info"]
        with pytest.raises(GuestUnreachable):
            await pool.call(address, {"op": "file.remove", "path": "/x"})
        assert asked[3:] == ["file.remove"]


async def test_an_answer_that_began_is_never_asked_for_again(pool: GuestPool) -> None:
    asked = 0

    async def half(guest: HostileGuest) -> None:
        nonlocal asked
        await guest.receive()
        await guest.json({"ok": True})
        await guest.receive()
        asked += 1
        guest.writer.write(struct.pack(">IB", 100, 1) + b"{")
        await guest.writer.drain()

    async with hostile(half) as address:
        await pool.call(address, {"op": "ping"})
        with pytest.raises(GuestUnreachable):
            await pool.call(address, {"op": "ping"})
        assert asked == 1


async def test_an_upload_hears_an_early_refusal_and_stops(pool: GuestPool) -> None:
    taken = 0

    async def full(guest: HostileGuest) -> None:
        await guest.receive()
        await guest.json({"ok": True})
        await guest.receive()
        await guest.json({"error": {"code": "no_space", "message": "full"}})
        await guest.reader.read()

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"x" * 100_000
            await asyncio.sleep(0)

    async with hostile(full) as address:
        with pytest.raises(GuestRefused, match="no_space"):
            await pool.upload(address, {"op": "file.write", "path": "/x"}, endless())
    assert taken < 10_000


async def test_an_upload_is_not_begun_before_go_on(pool: GuestPool) -> None:
    begun = False

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal begun
        begun = True
        yield b""

    refusal = json.dumps({"error": {"code": "bad_user", "message": "no"}}).encode()
    async with hostile(answering((1, refusal))) as address:
        with pytest.raises(GuestRefused):
            await pool.upload(address, {"op": "file.write", "path": "/x"}, chunks())
        assert not begun
        assert len(next(iter(pool._machines.values())).idle) == 1  # a refusal in good order leaves the connection


async def test_connections_are_kept_up_to_a_number_and_forgotten_together(pool: GuestPool) -> None:
    gate = asyncio.Event()

    async def waiting(guest: HostileGuest) -> None:
        while True:
            await guest.receive()
            await gate.wait()
            await guest.json({"ok": True})

    async with hostile(waiting) as address:
        calls = [asyncio.create_task(pool.call(address, {"op": "ping"})) for _ in range(60)]
        await asyncio.sleep(0.3)
        gate.set()
        await asyncio.gather(*calls)
        (machine,) = pool._machines.values()
        assert len(machine.idle) == len(machine.open) == IDLE_MOST
        gate.clear()
        late = asyncio.create_task(pool.call(address, {"op": "ping"}))
        await asyncio.sleep(0.05)
        pool.forget(address)
        with pytest.raises(GuestUnreachable):
            await late
        assert not machine.open
        assert not pool._machines


async def test_a_download_left_early_gives_its_connection_up(pool: GuestPool) -> None:
    async with hostile(answering((1, b'{"ok": true}'), (2, b"x"), (2, b"y"), (4, b""))) as address:
        async with pool.download(address, {"op": "process.follow"}) as download:
            async for _ in download:
                break
        assert not pool._machines
        async with pool.download(address, {"op": "process.follow"}) as download:
            assert len([frame async for frame in download]) == 2
        (machine,) = pool._machines.values()
        assert len(machine.idle) == 1
