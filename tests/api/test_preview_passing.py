"""Everything that HTTP/1.1 and WebSockets have passes through the gateway unharmed, with backpressure both ways."""

import asyncio
import hashlib
import os
import resource
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from tests.previews import Inside, Program, Serve, client_of, listening, saying
from tests.previews import ask as ask_once

MIB = 1 << 20
Door = tuple[str, dict[str, str]]


class Doors:
    """Makes the host name and the header for a program's port."""

    def __init__(self, api: httpx.AsyncClient, box: str) -> None:
        self._api = api
        self._box = box

    async def to(self, port: int) -> Door:
        asked = {"id": self._box, "port": port}
        (found,) = (await self._api.get("/v1/sandboxes/ports", params=asked)).json()["ports"]
        return f"{port}-{self._box}.localhost:7072", {"X-Boxkeep-Token": found["token"]}


@pytest_asyncio.fixture
async def doors(api: httpx.AsyncClient, box: str) -> AsyncIterator[Doors]:
    yield Doors(api, box)


async def echo(inside: Inside) -> None:
    """Answer each request with its own head and body, on a connection that is kept."""
    while True:
        head = await inside.read_head()
        length = next(
            (int(line[16:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length: ")), 0
        )
        body = head + await inside.reader.readexactly(length)
        await inside.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


async def until_ended(inside: Inside) -> None:
    """Read a chunked body to its last chunk, and say what its bytes sum up to."""
    await inside.read_head()
    total, digest = 0, hashlib.sha256()
    while size := int((await inside.reader.readline()).split(b";")[0], 16):
        piece = await inside.reader.readexactly(size)
        await inside.reader.readexactly(2)
        total, _ = total + size, digest.update(piece)
    await inside.reader.readline()
    said = f"{total} {digest.hexdigest()}".encode()
    await inside.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))


async def test_a_head_arrives_as_the_browser_sent_it(doors: Doors, gateway: int) -> None:
    async with listening(echo) as program:
        host, token = await doors.to(program.port)
        got = await ask_once(gateway, host, "/a%20b/?q=%C3%A4&&x", X_Custom_Name="Wert", Accept_Language="de", **token)
    lines = got.body.split(b"\r\n")
    assert lines[0] == b"GET /a%20b/?q=%C3%A4&&x HTTP/1.1"
    assert f"Host: {host}".encode() in lines
    assert {b"X-Custom-Name: Wert", b"Accept-Language: de", b"X-Forwarded-For: 127.0.0.1"} <= set(lines)
    assert {f"X-Forwarded-Host: {host}".encode(), b"X-Forwarded-Proto: http"} <= set(lines)


async def test_a_connection_is_kept_for_many_requests_and_into_the_sandbox_too(doors: Doors, gateway: int) -> None:
    async with listening(echo) as program, client_of(gateway) as client:
        host, token = await doors.to(program.port)
        for number in range(20):
            body = b"x" * number
            got = await client.ask(host, f"/{number}", "POST" if body else "GET", body, **token)
            assert got.status == 200
            assert got.body.endswith(b"\r\n\r\n" + body)
        assert program.connections == 1


async def test_a_connection_that_the_program_has_closed_is_replaced(doors: Doors, gateway: int) -> None:
    async def once(inside: Inside) -> None:
        await inside.read_head()
        await inside.say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with listening(once) as program, client_of(gateway) as client:
        host, token = await doors.to(program.port)
        for _ in range(20):
            assert (await client.ask(host, **token)).body == b"ok"
        assert program.connections == 20


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 9\r\n\r\n", 304, b""),
        (b"HTTP/1.1 302 Found\r\nLocation: http://localhost:3000/x\r\nContent-Length: 0\r\n\r\n", 302, b""),
        (b"HTTP/1.1 418 Ein Teekessel\r\nContent-Length: 1\r\n\r\nt", 418, b"t"),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", 200, b"until the end"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\n",
            200,
            b"abcde",
        ),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, b""),
    ],
)
async def test_every_kind_of_answer_arrives_whole(
    doors: Doors, gateway: int, answer: bytes, status: int, body: bytes
) -> None:
    async with listening(saying(answer)) as program:
        host, token = await doors.to(program.port)
        got = await ask_once(gateway, host, **token)
    assert (got.status, got.body) == (status, body)
    assert got.interim == ([103] if b"103" in answer else [])
    if status == 302:
        assert got.one("location") == "http://localhost:3000/x"


async def test_an_answer_to_head_has_its_length_and_no_body(doors: Doors, gateway: int) -> None:
    async with (
        listening(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")) as program,
        client_of(gateway) as client,
    ):
        host, token = await doors.to(program.port)
        got = await client.ask(host, method="HEAD", **token)
        assert (got.status, got.one("content-length"), got.body) == (200, "99", b"")
        assert (await client.ask(host, method="HEAD", **token)).status == 200


async def test_cookies_arrive_one_by_one(doors: Doors, gateway: int) -> None:
    cookies = b"Set-Cookie: a=1; Expires=Wed, 21 Oct 2099 07:28:00 GMT\r\nSet-Cookie: b=2; Domain=localhost\r\n"
    async with listening(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + cookies + b"\r\n")) as program:
        host, token = await doors.to(program.port)
        got = await ask_once(gateway, host, **token)
    assert got.all("set-cookie") == ["a=1; Expires=Wed, 21 Oct 2099 07:28:00 GMT", "b=2"]


async def test_a_client_that_asks_before_it_sends_is_told_to_go_on(doors: Doors, gateway: int) -> None:
    async def permitting(inside: Inside) -> None:
        assert b"Expect: 100-continue" in await inside.read_head()
        await inside.say(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await inside.reader.readexactly(5)
        await inside.say(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + body)

    async with listening(permitting) as program, client_of(gateway) as client:
        host, token = await doors.to(program.port)
        head = f"POST / HTTP/1.1\r\nHost: {host}\r\nExpect: 100-continue\r\nContent-Length: 5\r\n"
        client.writer.write(f"{head}X-Boxkeep-Token: {token['X-Boxkeep-Token']}\r\n\r\n".encode())
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.writer.write(b"hello")
        assert (await client.reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200 OK")


async def test_an_early_answer_to_a_large_upload_is_heard(doors: Doors, gateway: int) -> None:
    refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nmuch"
    async with listening(saying(refusal)) as program, client_of(gateway) as client:
        host, token = await doors.to(program.port)
        head = f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {64 * MIB}\r\n"
        client.writer.write(f"{head}X-Boxkeep-Token: {token['X-Boxkeep-Token']}\r\n\r\n".encode() + b"x" * MIB)
        async with asyncio.timeout(10):
            assert (await client.reader.readuntil(b"much")).startswith(b"HTTP/1.1 413 ")


async def test_server_sent_events_come_as_they_are_sent(doors: Doors, gateway: int) -> None:
    go_on = asyncio.Event()

    async def events(inside: Inside) -> None:
        await inside.read_head()
        await inside.say(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for number in range(3):
            await inside.say(b"data: %d\n\n" % number)
            await go_on.wait()
            go_on.clear()

    async with listening(events) as program:
        host, token = await doors.to(program.port)
        url = f"http://127.0.0.1:{gateway}/"
        async with httpx.AsyncClient() as client, client.stream("GET", url, headers={"Host": host, **token}) as got:
            lines = got.aiter_lines()
            for number in range(3):
                async with asyncio.timeout(5):
                    assert await anext(lines) == f"data: {number}"
                    assert await anext(lines) == ""
                go_on.set()


async def test_a_stream_ends_inside_when_its_client_leaves(doors: Doors, gateway: int) -> None:
    left = asyncio.Event()

    async def waiting(inside: Inside) -> None:
        await inside.read_head()
        await inside.reader.read()
        left.set()

    async with listening(waiting) as program:
        host, token = await doors.to(program.port)
        async with client_of(gateway) as client:
            head = f"GET / HTTP/1.1\r\nHost: {host}\r\nX-Boxkeep-Token: {token['X-Boxkeep-Token']}\r\n\r\n"
            client.writer.write(head.encode())
        async with asyncio.timeout(5):
            await left.wait()


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def giving(total: int, piece: bytes, chunked: bool) -> Serve:
    async def serve_it(inside: Inside) -> None:
        await inside.read_head()
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % total
        await inside.say(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
        for _ in range(total // len(piece)):
            await inside.say(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            await inside.say(b"0\r\n\r\n")

    return serve_it


@pytest.mark.parametrize("chunked", [False, True])
async def test_gigabytes_come_out_at_constant_memory(doors: Doors, gateway: int, chunked: bool) -> None:
    total = 1024 * MIB
    async with listening(giving(total, os.urandom(MIB), chunked)) as program:
        host, token = await doors.to(program.port)
        before, got = peak(), 0
        async with httpx.AsyncClient(timeout=60) as client:
            asked = {"headers": {"Host": host, **token}}
            async with client.stream("GET", f"http://127.0.0.1:{gateway}/", **asked) as answer:
                async for piece in answer.aiter_raw():
                    got += len(piece)
    assert got == total
    assert peak() - before < 64 * MIB


async def test_a_large_upload_goes_in_whole_at_constant_memory(doors: Doors, gateway: int) -> None:
    piece = os.urandom(MIB)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(256):
            yield piece

    async with listening(until_ended) as program:
        host, token = await doors.to(program.port)
        before = peak()
        async with httpx.AsyncClient(timeout=60) as client:
            got = await client.post(f"http://127.0.0.1:{gateway}/", content=chunks(), headers={"Host": host, **token})
    digest = hashlib.sha256()
    for _ in range(256):
        digest.update(piece)
    assert got.text == f"{256 * MIB} {digest.hexdigest()}"
    assert peak() - before < 64 * MIB


async def test_who_takes_nothing_is_sent_no_more_than_a_little(doors: Doors, gateway: int) -> None:
    sent = 0

    async def flood(inside: Inside) -> None:
        nonlocal sent
        await inside.read_head()
        await inside.say(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await inside.say(b"x" * 65536)
            sent += 65536

    async with listening(flood) as program, client_of(gateway) as client:
        host, token = await doors.to(program.port)
        head = f"GET / HTTP/1.1\r\nHost: {host}\r\nX-Boxkeep-Token: {token['X-Boxkeep-Token']}\r\n\r\n"
        client.writer.write(head.encode())
        await client.reader.readexactly(1)
        before = -1
        async with asyncio.timeout(30):
            while before != sent:
                before = sent
                await asyncio.sleep(0.5)
        assert sent < 32 * MIB


async def test_a_websocket_passes_with_its_extensions_and_subprotocols(doors: Doors, gateway: int) -> None:
    async def answer(socket: ServerConnection) -> None:
        async for message in socket:
            await socket.send(message)

    async with serve(answer, "127.0.0.1", 0, subprotocols=["chat", "graph"], max_size=None) as server:  # type: ignore[list-item]
        port = next(iter(server.sockets)).getsockname()[1]
        host, token = await doors.to(port)
        url = f"ws://{host.partition(':')[0]}:{gateway}/socket?x=1"
        asked = {"subprotocols": ["graph"], "additional_headers": token, "host": "127.0.0.1", "max_size": None}
        async with connect(url, **asked) as socket:  # type: ignore[arg-type]
            assert socket.subprotocol == "graph"
            assert [extension.name for extension in socket.protocol.extensions] == ["permessage-deflate"]
            for message in ("text", b"bytes", os.urandom(3 * MIB), "x" * MIB):
                await socket.send(message)
                assert await socket.recv() == message
            await socket.ping()
        assert socket.close_code == 1000


async def test_a_websocket_is_opened_by_the_token_in_its_url(doors: Doors, gateway: int) -> None:
    paths = []

    async def tell(socket: ServerConnection) -> None:
        assert socket.request is not None
        paths.append(socket.request.path)
        await socket.send("first")  # in one piece with the head that changes the protocol, perhaps

    async with serve(tell, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        host, token = await doors.to(port)
        url = f"ws://{host.partition(':')[0]}:{gateway}/s?a=1&boxkeep_token={token['X-Boxkeep-Token']}"
        async with connect(url, host="127.0.0.1", additional_headers={"Accept": "text/html"}) as socket:
            assert await socket.recv() == "first"
    assert paths == ["/s?a=1"]


async def test_what_a_socket_says_last_arrives_whole(doors: Doors, gateway: int) -> None:
    async def say_and_leave(inside: Inside) -> None:
        await inside.read_head()
        await inside.say(b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + b"x" * 8 * MIB)

    async with listening(say_and_leave) as program, client_of(gateway) as client:
        host, token = await doors.to(program.port)
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", **token}
        head = "".join(f"{name}: {value}\r\n" for name, value in {"Host": host, **upgrade}.items())
        client.writer.write(f"GET / HTTP/1.1\r\n{head}\r\n".encode())
        await client.reader.readuntil(b"\r\n\r\n")
        got = 0
        while piece := await client.reader.read(1 << 16):
            got += len(piece)
            await asyncio.sleep(0)
        assert got == 8 * MIB


async def test_a_refused_websocket_gets_the_programs_own_answer(doors: Doors, gateway: int) -> None:
    no = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"
    async with listening(saying(no)) as program, client_of(gateway) as client:
        host, token = await doors.to(program.port)
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "x", **token}
        for _ in range(2):
            got = await client.ask(host, **upgrade)
            assert (got.status, got.body) == (403, b"no")


async def test_many_requests_at_once_do_not_meet(doors: Doors, gateway: int) -> None:
    async with listening(echo) as program:
        host, token = await doors.to(program.port)

        async def one(number: int) -> None:
            async with client_of(gateway) as client:
                for turn in range(5):
                    got = await client.ask(host, f"/{number}/{turn}", **token)
                    assert got.body.startswith(f"GET /{number}/{turn} ".encode())

        await asyncio.gather(*(one(number) for number in range(40)))
        seen: Program = program
        assert seen.connections <= 200
