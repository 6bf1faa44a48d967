"""Names: asked at the gateway, answered by the resolvers of the host."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from boxkeep_server.model.node_api import NetworkWish
from boxkeep_server.node import netns
from boxkeep_server.node.network import Network
from boxkeep_server.node.resolver import AT_ONCE_EACH, Resolver
from tests.system.network.world import Box, boxed, inside, until


async def asked(box: Box, query: bytes, kind: int) -> bytes:
    def ask() -> bytes:
        with socket.socket(socket.AF_INET, kind) as client:
            client.settimeout(5)
            client.connect((box[2].gateway, 53))
            client.sendall(query)
            return client.recv(100)

    return bytes(await asyncio.to_thread(inside, box, ask))


class Backwards(asyncio.DatagramProtocol):
    """A resolver that answers queries backwards after their id, but for those that say `silent`."""

    def __init__(self) -> None:
        self.silenced = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if b"silent" in data:
            self.silenced += 1
            return
        self.transport.sendto(b"wrong id", addr)
        self.transport.sendto(data[:2] + data[:1:-1], addr)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write((await reader.read(100))[::-1])
    await reader.read()  # until the client's end of what it says has come through
    writer.close()


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[Backwards]:
    """A resolver on the host's loopback."""
    loop = asyncio.get_running_loop()
    backwards = Backwards()
    transport, _ = await loop.create_datagram_endpoint(lambda: backwards, local_addr=("127.0.0.53", 53))
    server = await asyncio.start_server(serve, "127.0.0.53", 53)
    yield backwards
    transport.close()
    server.close()


@pytest_asyncio.fixture
async def resolver(network: Network, tmp_path: Path, upstream: Backwards) -> AsyncIterator[Path]:
    """The forwarder; answers its configuration's file."""
    configuration = tmp_path / "resolv.conf"
    configuration.write_text("# of the tests\nnameserver 127.0.0.53\n")
    task = asyncio.create_task(Resolver(network.router, configuration).run())
    await asyncio.to_thread(until, lambda: listening(network))
    yield configuration
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def listening(network: Network) -> bool:
    return ":53 " in netns.within(network.router, lambda: netns.run(["ss", "-Hltn"]))


@pytest.mark.usefixtures("resolver")
async def test_names_are_asked_of_the_hosts_resolver_even_on_its_loopback(network: Network) -> None:
    box = await boxed(network, 3, NetworkWish())
    assert await asked(box, b"id0123456789", socket.SOCK_DGRAM) == b"id9876543210"
    assert await asked(box, b"abc", socket.SOCK_STREAM) == b"cba"


@pytest.mark.usefixtures("resolver")
async def test_without_egress_names_are_refused(network: Network) -> None:
    box = await boxed(network, 3, NetworkWish(internet=False))
    with pytest.raises(ConnectionRefusedError):
        await asked(box, b"id0123456789", socket.SOCK_DGRAM)
    with pytest.raises(ConnectionRefusedError):
        await asked(box, b"abc", socket.SOCK_STREAM)


@pytest.mark.usefixtures("upstream")
async def test_a_query_that_nobody_answers_is_answered_as_failed(network: Network, resolver: Path) -> None:
    box = await boxed(network, 3, NetworkWish())
    query = b"id\x01\x00" + bytes(8)
    resolver.write_text("nameserver 127.0.0.54\n")
    assert await asked(box, query, socket.SOCK_DGRAM) == b"id\x81\x82" + bytes(8)


async def test_a_second_resolver_is_asked_when_the_first_is_not_there(network: Network, resolver: Path) -> None:
    box = await boxed(network, 3, NetworkWish())
    resolver.write_text("nameserver 127.0.0.54\nnameserver 127.0.0.53\n")
    assert await asked(box, b"id0123456789", socket.SOCK_DGRAM) == b"id9876543210"
    assert await asked(box, b"abc", socket.SOCK_STREAM) == b"cba"


@pytest.mark.usefixtures("resolver")
async def test_one_sandboxes_unanswered_queries_leave_room_for_another(network: Network, upstream: Backwards) -> None:
    box, neighbour = await boxed(network, 3, NetworkWish()), await boxed(network, 4, NetworkWish())

    def pile_up() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for number in range(2 * AT_ONCE_EACH):
                client.sendto(number.to_bytes(2) + b"..........silent", (box[2].gateway, 53))

    await asyncio.to_thread(inside, box, pile_up)
    assert await asked(neighbour, b"id0123456789", socket.SOCK_DGRAM) == b"id9876543210"
    assert upstream.silenced == AT_ONCE_EACH
