"""What sandboxes reach and what reaches them, with real packets; run by test_network.py where this process is the host.

Around that host: `outside`, a namespace behind it that has public, private and metadata addresses at once.
"""

import asyncio
import errno
import json
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from boxkeep_server.model.ids import new_id
from boxkeep_server.model.node_api import NetworkWish
from boxkeep_server.node import netns
from boxkeep_server.node.network import Attachment, Network
from boxkeep_server.node.resolver import Resolver

PUBLIC = "203.0.113.10"
OTHER_PUBLIC = "203.0.113.11"
OPENED = "10.9.9.9"
INSIDE = ("10.1.2.3", "172.16.5.5", "192.168.7.7", "169.254.169.254", "100.100.100.200", "168.63.129.16", "100.64.1.1")
HOST = "198.51.100.1"
AT_ONCE_S = 1.0
SUBNET = "10.203.0.0/16"


class Listeners:
    """TCP listeners in a namespace that answer `hello` and count who came."""

    def __init__(self, path: Path | None, addresses: tuple[str, ...], port: int) -> None:
        self.accepted = 0
        self._sockets = [self._listen(path, address, port) for address in addresses]
        for one in self._sockets:
            threading.Thread(target=self._serve, args=(one,), daemon=True).start()

    def _listen(self, path: Path | None, address: str, port: int) -> socket.socket:
        def listen() -> socket.socket:
            return socket.create_server((address, port))

        return listen() if path is None else netns.within(path, listen)

    def _serve(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            self.accepted += 1
            with connection:
                connection.sendall(b"hello")

    def close(self) -> None:
        for one in self._sockets:
            one.shutdown(socket.SHUT_RDWR)
            one.close()


@pytest.fixture(scope="module", autouse=True)
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The host's loopback and its link to the outside."""
    outside = tmp_path_factory.mktemp("world") / "outside"
    netns.make(outside, lambda: None)
    netns.ip(
        "link set lo up",
        f"link add out0 type veth peer name out1 netns {outside}",
        f"addr add {HOST}/24 dev out0",
        "link set out0 up",
        "route add default via 198.51.100.2",
    )

    def behind() -> None:
        addresses = (PUBLIC, OTHER_PUBLIC, OPENED, *INSIDE)
        netns.ip(
            "link set lo up",
            "addr add 198.51.100.2/24 dev out1",
            *(f"addr add {address}/32 dev lo" for address in addresses),
            "link set out1 up",
        )

    netns.within(outside, behind)
    listeners = Listeners(outside, (PUBLIC, OTHER_PUBLIC, OPENED, *INSIDE), 80)
    smtp = Listeners(outside, (PUBLIC,), 25)
    yield outside
    listeners.close()
    smtp.close()
    netns.remove(outside)


@pytest_asyncio.fixture
async def network(tmp_path: Path) -> AsyncIterator[Network]:
    made = Network("hnet", SUBNET, tmp_path, uids=[0], opened=[(OPENED, 80)])
    await made.setup()
    yield made
    await made.teardown()
    assert not (tmp_path / "net").exists()
    assert "boxkeep" not in netns.run(["nft", "list", "tables"])
    assert "uhneth" not in netns.run(["ip", "link"])


Box = tuple[str, int, Attachment]


async def boxed(network: Network, index: int, wish: NetworkWish | None = None) -> Box:
    machine = new_id()
    attachment = await network.attach(machine, index)
    if wish is not None:
        await network.set_egress(machine, index, wish)
    return machine, index, attachment


def inside(box: Box, work: Callable[[], Any]) -> Any:
    return netns.within(box[2].netns_path, work)


def dial(address: str, port: int = 80, source: str | None = None) -> str:
    """What becomes of a connection: `hello`, or the name of the error; an assertion when it hangs."""
    began = time.monotonic()
    try:
        with socket.create_connection((address, port), 5, (source, 0) if source else None) as connection:
            return connection.recv(5).decode()
    except TimeoutError:
        return "hangs"
    except OSError as error:
        assert time.monotonic() - began < AT_ONCE_S, f"{address} was not refused at once"
        return errno.errorcode[error.errno or 0]


async def test_a_sandbox_reaches_nothing_until_it_is_told_what(network: Network) -> None:
    box = await boxed(network, 3)
    assert inside(box, lambda: dial(PUBLIC)) == "ECONNREFUSED"


async def test_with_internet_public_addresses_answer(network: Network) -> None:
    box = await boxed(network, 3, NetworkWish())
    assert inside(box, lambda: dial(PUBLIC)) == "hello"


@pytest.mark.parametrize("address", INSIDE)
async def test_private_and_metadata_addresses_are_refused_at_once(network: Network, address: str) -> None:
    box = await boxed(network, 3, NetworkWish())
    assert inside(box, lambda: dial(address)) == "ECONNREFUSED"


async def test_an_opened_pair_answers_and_its_neighbour_does_not(network: Network) -> None:
    box = await boxed(network, 3, NetworkWish())
    assert inside(box, lambda: dial(OPENED, 80)) == "hello"
    assert inside(box, lambda: dial(OPENED, 81)) == "ECONNREFUSED"


async def test_mail_is_refused(network: Network) -> None:
    box = await boxed(network, 3, NetworkWish())
    assert inside(box, lambda: dial(PUBLIC, 25)) == "ECONNREFUSED"


async def test_no_address_of_the_host_answers(network: Network) -> None:
    host = Listeners(None, ("0.0.0.0",), 8080)
    box = await boxed(network, 3, NetworkWish())
    addresses = (HOST, network.plan.uplink.gateway, network.plan.uplink.address, box[2].gateway)
    assert {inside(box, lambda a=a: dial(a, 8080)) for a in addresses} == {"ECONNREFUSED"}
    assert host.accepted == 0
    host.close()


async def test_an_address_that_the_host_gets_later_is_refused_after_the_next_check(network: Network) -> None:
    host = Listeners(None, ("0.0.0.0",), 8081)
    box = await boxed(network, 3, NetworkWish())
    netns.ip("addr add 203.0.113.77/32 dev lo")
    await network.check()
    rules = netns.within(network.router, lambda: netns.run(["nft", "list", "set", "inet", "boxkeep", "host"]))
    assert "203.0.113.77" in rules
    assert inside(box, lambda: dial("203.0.113.77", 8081)) == "ECONNREFUSED"
    netns.ip("addr del 203.0.113.77/32 dev lo")
    host.close()


async def test_sandboxes_do_not_reach_each_other(network: Network) -> None:
    one, two = await boxed(network, 3, NetworkWish()), await boxed(network, 4, NetworkWish())
    listening = Listeners(two[2].netns_path, ("0.0.0.0",), 7071)
    assert inside(one, lambda: dial(two[2].address, 7071)) == "ECONNREFUSED"
    assert listening.accepted == 0
    listening.close()


async def test_the_host_reaches_the_guests_port_alone(network: Network) -> None:
    box = await boxed(network, 3)
    guest, other = (Listeners(box[2].netns_path, ("0.0.0.0",), port) for port in (7071, 8000))
    assert dial(box[2].address, 7071) == "hello"
    assert dial(box[2].address, 8000) == "ECONNREFUSED"
    guest.close()
    other.close()


async def test_other_accounts_of_the_host_do_not_reach_guests(network: Network) -> None:
    box = await boxed(network, 3)
    guest = Listeners(box[2].netns_path, ("0.0.0.0",), 7071)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        os.write(write, dial(box[2].address, 7071).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100) == b"ECONNREFUSED"
    guest.close()


async def test_an_allow_list_allows_what_is_on_it_and_nothing_else(network: Network) -> None:
    box = await boxed(network, 3, NetworkWish(allow=(f"{PUBLIC}/32", "10.0.0.0/8")))
    assert inside(box, lambda: dial(PUBLIC)) == "hello"
    assert inside(box, lambda: dial(OTHER_PUBLIC)) == "ECONNREFUSED"
    assert inside(box, lambda: dial("10.1.2.3")) == "ECONNREFUSED"


async def test_egress_can_be_taken_away_again(network: Network) -> None:
    machine, index, _ = box = await boxed(network, 3, NetworkWish(allow=(f"{PUBLIC}/32",)))
    await network.set_egress(machine, index, NetworkWish(internet=False))
    assert inside(box, lambda: dial(PUBLIC)) == "ECONNREFUSED"


async def test_the_operators_no_outweighs_every_wish(tmp_path: Path) -> None:
    closed = Network("hnet", SUBNET, tmp_path, uids=[0], internet=False)
    await closed.setup()
    try:
        box = await boxed(closed, 3, NetworkWish(allow=(f"{PUBLIC}/32",)))
        assert inside(box, lambda: dial(PUBLIC)) == "ECONNREFUSED"
    finally:
        await closed.teardown()


async def test_a_borrowed_source_address_gets_nowhere(network: Network) -> None:
    box, neighbour = await boxed(network, 3, NetworkWish(internet=False)), await boxed(network, 4, NetworkWish())
    borrowed = neighbour[2].address
    inside(box, lambda: netns.ip(f"addr add {borrowed}/32 dev eth0"))
    assert inside(box, lambda: dial(PUBLIC, source=borrowed)) != "hello"


async def test_nothing_speaks_ipv6(network: Network) -> None:
    box = await boxed(network, 3, NetworkWish())
    assert inside(box, lambda: netns.run(["ip", "-6", "addr"])) == ""

    def dial6() -> str:
        try:
            socket.create_connection(("2001:db8::1", 80), 5).close()
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return "hello"

    assert inside(box, dial6) in {"ENETUNREACH", "EADDRNOTAVAIL"}


async def test_a_flush_of_the_hosts_rules_opens_nothing_and_is_mended(network: Network) -> None:
    box = await boxed(network, 3, NetworkWish())
    netns.run(["nft", "flush", "ruleset"])
    assert inside(box, lambda: dial("169.254.169.254")) == "ECONNREFUSED"
    assert inside(box, lambda: dial("10.1.2.3")) == "ECONNREFUSED"
    await network.check()
    assert inside(box, lambda: dial(PUBLIC)) == "hello"


async def test_too_many_connections_are_refused_and_do_not_trouble_a_neighbour(network: Network) -> None:
    box, neighbour = await boxed(network, 3, NetworkWish()), await boxed(network, 4, NetworkWish())

    def flood() -> set[str]:
        held, seen = [], set()
        for _ in range(4500):
            one = socket.socket()
            one.setblocking(False)
            held.append(one)
            seen.add(errno.errorcode[one.connect_ex((PUBLIC, 80)) or errno.EINPROGRESS])
        time.sleep(1)
        refused = sum(one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED for one in held)
        for one in held:
            one.close()
        return {"refused"} if refused > 100 else {f"{refused} refused"}

    assert inside(box, flood) == {"refused"}
    assert inside(neighbour, lambda: dial(PUBLIC)) == "hello"


async def test_a_new_node_process_takes_over_what_is_there(network: Network, tmp_path: Path) -> None:
    box = await boxed(network, 3, NetworkWish())
    again = Network("hnet", SUBNET, tmp_path, uids=[0], opened=[(OPENED, 80)])
    await again.setup()
    assert await again.found() == [box[0]]
    assert inside(box, lambda: dial(PUBLIC)) == "hello"
    await again.detach(box[0], box[1])
    assert await again.found() == []


async def test_detaching_again_and_from_halves_succeeds(network: Network) -> None:
    machine, index, _ = await boxed(network, 3, NetworkWish(allow=(f"{PUBLIC}/32",)))
    await network.detach(machine, index)
    await network.detach(machine, index)
    await network.detach(new_id(), 5)
    rules = netns.within(network.router, lambda: netns.run(["nft", "-j", "list", "set", "inet", "boxkeep", "allowed"]))
    assert "elem" not in json.dumps(json.loads(rules)["nftables"][-1])


async def test_fifty_attach_and_detach_at_once(network: Network) -> None:
    boxes = await asyncio.gather(*(boxed(network, index, NetworkWish()) for index in range(10, 60)))
    assert inside(boxes[-1], lambda: dial(PUBLIC)) == "hello"
    await asyncio.gather(*(network.detach(machine, index) for machine, index, _ in boxes))
    assert await network.found() == []
    assert "bhnet" not in netns.within(network.router, lambda: netns.run(["ip", "link"]))


async def asked(box: Box, query: bytes, kind: int) -> bytes:
    def ask() -> bytes:
        with socket.socket(socket.AF_INET, kind) as client:
            client.settimeout(5)
            client.connect((box[2].gateway, 53))
            client.sendall(query)
            return client.recv(100)

    return bytes(await asyncio.to_thread(inside, box, ask))


@pytest_asyncio.fixture
async def resolver(network: Network, tmp_path: Path) -> AsyncIterator[None]:
    """The forwarder, with a resolver on the host's loopback that answers queries backwards after their id."""

    class Backwards(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.transport.sendto(data[:2] + data[:1:-1], addr)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read(100))[::-1])
        writer.close()

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Backwards, local_addr=("127.0.0.53", 53))
    server = await asyncio.start_server(serve, "127.0.0.53", 53)
    configuration = tmp_path / "resolv.conf"
    configuration.write_text("# of the tests\nnameserver 127.0.0.53\n")
    task = asyncio.create_task(Resolver(network.router, configuration).run())
    await asyncio.sleep(0.2)
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    transport.close()
    server.close()


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
