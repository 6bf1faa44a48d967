"""Hostile programs and hostile clients at the gateway: every trick ends in an error of ours, and harms nobody else."""

import asyncio
import re

import httpx
import pytest
import pytest_asyncio

from boxkeep_server.gateway import exchange
from tests.api.stage import Stage
from tests.previews import Inside, Serve, ask, client_of, listening, opened_gateway, saying

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest_asyncio.fixture
async def port_and_token(api: httpx.AsyncClient, box: str) -> "Tokens":
    return Tokens(api, box)


class Tokens:
    def __init__(self, api: httpx.AsyncClient, box: str) -> None:
        self._api = api
        self._box = box

    async def of(self, port: int) -> tuple[str, str]:
        """The host name of a port, and a token for it."""
        asked = {"id": self._box, "port": port}
        (found,) = (await self._api.get("/v1/sandboxes/ports", params=asked)).json()["ports"]
        return f"{port}-{self._box}.localhost:7072", found["token"]


def head_of(host: str, token: str, first: str = "GET / HTTP/1.1") -> bytes:
    return f"{first}\r\nHost: {host}\r\nX-Boxkeep-Token: {token}\r\n".encode()


WRONG_ANSWERS: dict[str, bytes] = {
    "nothing": b"",
    "no http": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "an older http": b"<html>hello</html>\n\n",
    "a head that ends early": b"HTTP/1.1 200 OK\r\nContent-Le",
    "an endless head": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
    "too many lines": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 5000 + b"\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "both framings": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unknown framing": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\nhello",
    "an endless length": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 1000 + b"\r\n\r\nhello",
    "a nul in a header": b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
    "a bare carriage return": b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b=1\r\nContent-Length: 0\r\n\r\n",
    "a space in a name": b"HTTP/1.1 200 OK\r\nX Y: a\r\nContent-Length: 0\r\n\r\n",
    "interim answers without end": b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
    "large interim answers": b"HTTP/1.1 103 Early Hints\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    "a protocol that nobody asked for": b"HTTP/1.1 101 Go\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\nx",
    "a version that is none": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "a status out of range": b"HTTP/1.1 999999 Huge\r\n\r\n",
}


@pytest.mark.parametrize("name", WRONG_ANSWERS)
async def test_what_is_no_answer_is_a_502_and_the_client_goes_on(
    port_and_token: Tokens, gateway: int, name: str
) -> None:
    async with listening(saying(WRONG_ANSWERS[name])) as program, client_of(gateway) as client:
        host, token = await port_and_token.of(program.port)
        for _ in range(2):
            got = await client.ask(host, X_Boxkeep_Token=token)
            assert (got.status, got.one("content-type")) == (502, "application/json"), got.body
            assert b"error" in got.body


async def test_a_client_that_wants_no_more_is_let_go_after_a_502(port_and_token: Tokens, gateway: int) -> None:
    async with listening(saying(b"")) as program:
        host, token = await port_and_token.of(program.port)
        async with client_of(gateway) as client, asyncio.timeout(5):
            assert (await client.raw(head_of(host, token) + b"Connection: close\r\n\r\n"))[9:12] == b"502"


BROKEN_BODIES: dict[str, bytes] = {
    "too short": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello",
    "no last chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "a wrong chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
    "a chunk without end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5;" + b"x" * 100_000,
    "trailers without end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"
    + b"a: b\r\n" * 30_000,
}


@pytest.mark.parametrize("name", BROKEN_BODIES)
async def test_a_body_that_breaks_off_does_not_look_whole(port_and_token: Tokens, gateway: int, name: str) -> None:
    async with listening(saying(BROKEN_BODIES[name])) as program, client_of(gateway) as client:
        host, token = await port_and_token.of(program.port)
        got = await client.raw(head_of(host, token) + b"\r\n")
        assert got.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\n0\r\n" not in got
        assert len(got) < 5000


async def test_an_answer_that_nobody_asked_for_is_given_to_nobody(port_and_token: Tokens, gateway: int) -> None:
    async def twice(inside: Inside) -> None:
        while True:
            await inside.read_head()
            await inside.say(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")

    async with listening(twice) as program, client_of(gateway) as client:
        host, token = await port_and_token.of(program.port)
        for _ in range(5):
            assert (await client.ask(host, X_Boxkeep_Token=token)).body == b"ok"
        assert program.connections == 5


async def test_what_is_said_between_requests_is_given_to_nobody(port_and_token: Tokens, gateway: int) -> None:
    async def late(inside: Inside) -> None:
        await inside.read_head()
        await inside.say(OK)
        await inside.say(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        await inside.reader.read()

    async with listening(late) as program, client_of(gateway) as client:
        host, token = await port_and_token.of(program.port)
        for _ in range(10):
            assert (await client.ask(host, X_Boxkeep_Token=token)).body in (b"ok", b"evil")
            assert (await ask(gateway, host, X_Boxkeep_Token=token)).body == b"ok"


async def test_a_program_that_never_answers_is_given_up(
    port_and_token: Tokens, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def mute(inside: Inside) -> None:
        await inside.reader.read()

    monkeypatch.setattr(exchange.Exchange.__init__, "__defaults__", (0.5,))
    async with listening(mute) as program, opened_gateway(stage) as gateway:
        host, token = await port_and_token.of(program.port)
        assert (await ask(gateway, host, X_Boxkeep_Token=token)).status == 504


def crumbs() -> Serve:
    """An answer in chunks of one byte, as fast as it goes."""

    async def serve(inside: Inside) -> None:
        await inside.read_head()
        await inside.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await inside.say(b"1\r\nx\r\n" * 40_000)

    return serve


async def test_an_answer_in_crumbs_leaves_others_their_turn(port_and_token: Tokens, gateway: int) -> None:
    async with listening(crumbs()) as program, listening(saying(OK)) as neighbour:
        host, token = await port_and_token.of(program.port)
        beside, key = await port_and_token.of(neighbour.port)
        async with client_of(gateway) as client:
            client.writer.write(head_of(host, token) + b"\r\n")

            async def swallow() -> None:
                while await client.reader.read(1 << 16):
                    pass

            swallowing = asyncio.create_task(swallow())
            clock = asyncio.get_running_loop().time
            stalls = []
            for _ in range(20):
                began = clock()
                await asyncio.sleep(0)
                stalls.append(clock() - began)
                assert (await ask(gateway, beside, X_Boxkeep_Token=key)).body == b"ok"
            assert sorted(stalls)[10] < 0.1
            swallowing.cancel()


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
WRONG_REQUESTS: dict[str, bytes] = {
    "both framings": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two lengths": b"Content-Length: 0\r\nContent-Length: 36\r\n\r\n" + SMUGGLED,
    "a list of lengths": b"Content-Length: 0, 36\r\n\r\n" + SMUGGLED,
    "a length with a sign": b"Content-Length: +36\r\n\r\n" + SMUGGLED,
    "an unknown framing": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a framing twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a framing with a tab": b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a space before the colon": b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a bare carriage return": b"X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a nul": b"X: y\0\r\n\r\n",
    "a second host": b"Host: other\r\n\r\n",
    "too large": b"X: " + b"x" * 40_000 + b"\r\n\r\n",
    "too many lines": b"a: b\r\n" * 300 + b"\r\n",
}


@pytest.mark.parametrize("name", WRONG_REQUESTS)
async def test_a_request_that_two_could_read_differently_reaches_nobody(
    port_and_token: Tokens, gateway: int, name: str
) -> None:
    async with listening(saying(OK)) as program:
        host, token = await port_and_token.of(program.port)
        async with client_of(gateway) as client:
            got = await client.raw(head_of(host, token, "POST / HTTP/1.1") + WRONG_REQUESTS[name])
        assert got[9:12] in (b"400", b"431", b"501"), got
        assert len(re.findall(rb"HTTP/1.1 \d{3}", got)) == 1
        assert program.connections == 0


WRONG_LINES = {
    "GET http://other/ HTTP/1.1": b"400",
    "CONNECT 127.0.0.1:22 HTTP/1.1": b"405",
    "TRACE / HTTP/1.1": b"405",
    "GET / HTTP/2.0": b"505",
    "PRI * HTTP/2.0": b"505",
    "GET /\x01 HTTP/1.1": b"400",
    "GET  / HTTP/1.1": b"400",
}


@pytest.mark.parametrize("line", WRONG_LINES)
async def test_a_request_line_that_leads_elsewhere_is_refused(port_and_token: Tokens, gateway: int, line: str) -> None:
    async with listening(saying(OK)) as program:
        host, token = await port_and_token.of(program.port)
        async with client_of(gateway) as client:
            got = await client.raw(head_of(host, token, line) + b"Connection: close\r\n\r\n")
        assert got[9:12] == WRONG_LINES[line], got
        assert program.connections == 0


async def test_a_line_that_is_folded_is_one_line_to_the_program(port_and_token: Tokens, gateway: int) -> None:
    async with listening(saying(OK)) as program:
        host, token = await port_and_token.of(program.port)
        async with client_of(gateway) as client:
            folded = b"X: a\r\n Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            assert b"ok" in await client.raw(head_of(host, token) + folded)
        assert b"\r\nX: a Transfer-Encoding: chunked\r\n" in program.heads[0]


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x"])
async def test_a_head_that_does_not_come_is_waited_for_no_longer_than_that(stage: Stage, sent: bytes) -> None:
    async with opened_gateway(stage, head_s=0.3) as gateway, client_of(gateway) as client:
        got = await client.raw(sent)
        assert got[:12] == (b"HTTP/1.1 408" if sent else b"")


async def test_a_broken_upload_does_not_look_whole_inside(port_and_token: Tokens, gateway: int) -> None:
    seen = asyncio.Queue[bytes]()

    async def collect(inside: Inside) -> None:
        await inside.read_head()
        seen.put_nowait(await inside.reader.read(-1))

    async with listening(collect) as program:
        host, token = await port_and_token.of(program.port)
        async with client_of(gateway) as client:
            await client.raw(
                head_of(host, token, "POST / HTTP/1.1") + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n"
            )
        async with asyncio.timeout(5):
            assert b"0\r\n\r\n" not in await seen.get()
