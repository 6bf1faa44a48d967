"""The desktop's own proxy before a real one that demands a password: HTTP and SOCKS, tunnels and plain requests."""

import asyncio
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing

import pytest
import pytest_asyncio

from boxkeep_desktop.forwarder import Forwarder
from boxkeep_desktop.proxies import Proxy, read_proxy
from tests.clients import eventually
from tests.instances import free_port
from tests.proxies import proxy_words

USER = "ada"
PASSWORD = "p@ss:wörd/%"
BODY = b"hello " * 20_000


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def proxy() -> Iterator[int]:
    """A proxy that speaks both to who knows the password, on a port of loopback."""
    port = free_port()
    words = proxy_words(f"127.0.0.1:{port}", USER, PASSWORD)
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually("the proxy to listen", lambda: listens(port), 20, 0.1)
        yield port
    finally:
        process.kill()
        process.wait()


class Site:
    """A server that answers every request with the head that it got, and a body."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            while True:
                try:
                    head = await reader.readuntil(b"\r\n\r\n")
                except (EOFError, ConnectionError):
                    return
                self.heads.append(head)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
                await writer.drain()


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


@pytest_asyncio.fixture
async def forwarded() -> AsyncIterator[Callable[[Proxy], "asyncio.Future[Proxy]"]]:
    """Serves before a proxy."""
    servers: list[asyncio.Server] = []

    async def serve(proxy: Proxy) -> Proxy:
        server, one = await Forwarder(proxy).serve()
        servers.append(server)
        return one

    yield serve
    for server in servers:
        server.close()


def known(port: int, scheme: str = "http", password: str = PASSWORD) -> Proxy:
    return Proxy(scheme, "127.0.0.1", port, USER, password)


async def said(port: int, message: bytes) -> bytes:
    """All that is answered to a message: to the end of the body, or of the connection where no length is said."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with closing(writer):
        async with asyncio.timeout(10):
            writer.write(message)
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError as ended:
                return ended.partial
            length = re.search(rb"\r\nContent-Length: (\d+)\r\n", head)
            return head + (await reader.readexactly(int(length[1])) if length else await reader.read())


async def test_plain_requests_pass_each_with_the_password_and_none_of_it_reaches_the_site(
    proxy: int, site: Site, forwarded: Callable[[Proxy], "asyncio.Future[Proxy]"]
) -> None:
    port = (await forwarded(known(proxy))).port
    request = f"GET http://127.0.0.1:{site.port}/a HTTP/1.1\r\nHost: x\r\nProxy-Connection: keep-alive\r\n\r\n".encode()
    for _ in range(2):
        answer = await said(port, request)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(BODY)
        assert b"\r\nConnection: close\r\n" in answer, "another request would go without the password"
    assert len(site.heads) == 2
    assert not any(b"authorization" in head.lower() for head in site.heads)


async def test_a_tunnel_passes_bytes_both_ways(
    proxy: int, site: Site, forwarded: Callable[[Proxy], "asyncio.Future[Proxy]"]
) -> None:
    port = (await forwarded(known(proxy))).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with closing(writer):
        writer.write(f"CONNECT 127.0.0.1:{site.port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        for _ in range(3):
            writer.write(b"GET / HTTP/1.1\r\nConnection: keep-alive\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(len(BODY)) == BODY
    assert site.heads == [b"GET / HTTP/1.1\r\nConnection: keep-alive\r\n\r\n"] * 3


async def test_socks_passes_bytes_both_ways(
    proxy: int, site: Site, forwarded: Callable[[Proxy], "asyncio.Future[Proxy]"]
) -> None:
    one = await forwarded(known(proxy, "socks5"))
    assert one.url == f"socks5://127.0.0.1:{one.port}"
    reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
    with closing(writer):
        writer.write(b"\x05\x01\x00")
        assert await reader.readexactly(2) == b"\x05\x00"
        writer.write(b"\x05\x01\x00\x03\x09127.0.0.1" + site.port.to_bytes(2))
        assert (await reader.readexactly(10))[:2] == b"\x05\x00"
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(len(BODY)) == BODY


@pytest.mark.parametrize("method", ["CONNECT 127.0.0.1:1", "GET http://127.0.0.1:1/"])
async def test_a_wrong_password_is_told_and_nobody_is_asked_for_another(
    proxy: int, method: str, forwarded: Callable[[Proxy], "asyncio.Future[Proxy]"]
) -> None:
    port = (await forwarded(known(proxy, password="wrong"))).port
    answer = await said(port, f"{method} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert answer.endswith(b"The proxy that this browser goes by refuses its user or password.\n")
    assert b"authenticate" not in answer.lower()
    assert await said((await forwarded(known(proxy, "socks5", "wrong"))).port, b"\x05\x01\x00") == b""


async def test_a_proxy_that_is_away_is_told(forwarded: Callable[[Proxy], "asyncio.Future[Proxy]"]) -> None:
    port = (await forwarded(known(free_port()))).port
    answer = await said(port, b"CONNECT example.com:443 HTTP/1.1\r\n\r\n")
    assert answer.endswith(b"The proxy that this browser goes by cannot be reached.\n")
    assert await said((await forwarded(known(free_port(), "socks5"))).port, b"\x05\x01\x00") == b""


@pytest.mark.parametrize(
    "answer",
    [b"", b"rubbish\r\n\r\n", b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 999 x\r\n\r\n", b"x" * 200_000, b"SSH-2.0-x\r\n"],
)
async def test_a_proxy_that_speaks_something_else_ends_the_call(
    answer: bytes, forwarded: Callable[[Proxy], "asyncio.Future[Proxy]"]
) -> None:
    async def speaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            await reader.read(1)
            writer.write(answer)

    async with await asyncio.start_server(speaks, "127.0.0.1", 0) as server:
        upstream = server.sockets[0].getsockname()[1]
        got = await said((await forwarded(known(upstream))).port, b"GET http://x/ HTTP/1.1\r\n\r\n")
        assert got == b"" or got.startswith(b"HTTP/1.1 502 ")


@pytest.mark.parametrize("message", [b"", b"\r\n", b"x" * 200_000, b"\x05", b"\x05\xff"])
async def test_clients_that_say_nothing_of_use_end_nobody_elses_calls(
    proxy: int, site: Site, message: bytes, forwarded: Callable[[Proxy], "asyncio.Future[Proxy]"]
) -> None:
    port = (await forwarded(known(proxy))).port
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(message)
    writer.close()
    answer = await said(port, f"GET http://127.0.0.1:{site.port}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert answer.endswith(BODY)


def test_a_url_is_read_with_what_is_quoted_in_it_and_shown_without() -> None:
    one = read_proxy("http://ada:p%40ss%3Aw%C3%B6rd%2F%25@[2001:db8::1]:3128")
    assert (one.user, one.password) == (USER, PASSWORD)
    assert one.url == "http://[2001:db8::1]:3128"
    assert PASSWORD not in repr(one)
    assert read_proxy("http://h:1").user is None
