"""Sandboxes that do their worst: forged addresses, other protocols, floods."""

import contextlib
import errno
import socket
from pathlib import Path

from boxkeep_server.model.node_api import NetworkWish
from boxkeep_server.node import netns
from boxkeep_server.node.network import Network
from tests.system.network.world import HOST, PUBLIC, boxed, dial, errno_of, heard, inside, until


async def test_a_borrowed_source_address_gets_nowhere(network: Network, world: Path) -> None:
    box, victim = await boxed(network, 3, NetworkWish()), await boxed(network, 4, NetworkWish())
    borrowed = victim[2].address
    inside(box, lambda: netns.ip(f"addr add {borrowed}/32 dev eth0"))
    with netns.within(world, lambda: _bound(PUBLIC, 9000)) as outside:
        for source, arrives in ((box[2].address, b"mine"), (borrowed, b"")):
            with inside(box, lambda source=source: _bound(source, 0)) as sender:
                sender.sendto(b"mine", (PUBLIC, 9000))
                assert heard(outside) == arrives


async def test_a_borrowed_source_address_does_not_reach_into_a_neighbours_open_query(network: Network) -> None:
    box, victim = await boxed(network, 3, NetworkWish()), await boxed(network, 4, NetworkWish())
    borrowed, gateway = victim[2].address, victim[2].gateway
    inside(box, lambda: netns.ip(f"addr add {borrowed}/32 dev eth0"))
    with netns.within(network.router, lambda: _bound("0.0.0.0", 53)) as names:
        with inside(victim, lambda: _bound(borrowed, 6000)) as asking:
            asking.sendto(b"query", (gateway, 53))
            query, asker = names.recvfrom(100)
            names.sendto(query, asker)  # the connection is established now
            assert heard(asking) == b"query"
        with inside(box, lambda: _bound(borrowed, 6000)) as forging:
            forging.sendto(b"forged", (gateway, 53))
            assert heard(names) == b""


async def test_taking_an_address_of_the_host_gets_nowhere(network: Network, world: Path) -> None:
    box = await boxed(network, 3, NetworkWish())
    for address in (HOST, network.plan.uplink.gateway, network.plan.uplink.address, "8.8.8.8"):
        inside(box, lambda address=address: netns.ip(f"addr add {address}/32 dev eth0"))
        with netns.within(world, lambda: _bound(PUBLIC, 9000)) as outside:
            with inside(box, lambda address=address: _bound(address, 0)) as sender:
                sender.sendto(b"forged", (PUBLIC, 9000))
            assert heard(outside) == b""


async def test_other_protocols_do_not_go_out(network: Network, world: Path) -> None:
    box = await boxed(network, 3, NetworkWish())
    for protocol in (socket.IPPROTO_GRE, socket.IPPROTO_IPIP, socket.IPPROTO_ESP, 132):
        with (
            netns.within(world, lambda p=protocol: _raw(p)) as outside,
            inside(box, lambda p=protocol: _raw(p)) as sender,
        ):
            errno_of(lambda s=sender: s.sendto(bytes(20), (PUBLIC, 0)))
            assert heard(outside) == b"", f"protocol {protocol} went out"


async def test_ipv6_goes_nowhere_even_when_a_sandbox_switches_it_on(network: Network) -> None:
    box = await boxed(network, 3, NetworkWish())
    seen = netns.within(network.router, lambda: _sniffer(network.link(3)))

    def switch_on() -> None:
        for name in ("all", "eth0"):
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("0")
        netns.ip("addr add 2001:db8::2/64 dev eth0 nodad", "route add default via 2001:db8::1 dev eth0")
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"six", ("ff02::1", 9000, 0, socket.if_nametoindex("eth0")))
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as dialling:
            dialling.settimeout(0.5)
            assert errno_of(lambda: dialling.connect(("2001:db8::1", 53))) != "done"

    inside(box, switch_on)
    with seen:  # they did come to the router, which has no address to answer with and sends none on
        until(lambda: seen.recv(2048)[20:] != b"")
    assert netns.within(network.router, lambda: netns.run(["ip", "-6", "addr"])) == ""
    assert netns.within(network.router, lambda: netns.run(["ip", "-6", "route", "show", "table", "all"])) == ""


async def test_refusals_come_at_once_however_many_there_are(network: Network) -> None:
    box = await boxed(network, 3, NetworkWish())

    def send(port: int) -> str:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.settimeout(5)
            sender.connect(("10.1.2.3", port))
            sender.send(b"x")
            return errno_of(lambda: sender.recv(1))

    assert {inside(box, lambda port=port: send(port)) for port in range(1000, 1060)} == {"ECONNREFUSED"}


async def test_too_many_connections_are_refused_and_do_not_trouble_a_neighbour(network: Network) -> None:
    box, neighbour = await boxed(network, 3, NetworkWish()), await boxed(network, 4, NetworkWish())
    held = inside(box, _flood)
    try:
        until(lambda: sum(_refused(one) for one in held) > 100)
        assert inside(neighbour, lambda: dial(PUBLIC)) == "hello"
    finally:
        for one in held:
            one.close()


def _flood() -> list[socket.socket]:
    held = [socket.socket() for _ in range(4500)]
    for one in held:
        one.setblocking(False)
        one.connect_ex((PUBLIC, 80))
    return held


_errors: dict[int, bool] = {}


def _refused(one: socket.socket) -> bool:
    # Reading the error takes it away.
    if one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED:
        _errors[id(one)] = True
    return _errors.get(id(one), False)


async def test_a_flood_of_queries_is_thinned_before_it_reaches_the_node(network: Network) -> None:
    box, neighbour = await boxed(network, 3, NetworkWish()), await boxed(network, 4, NetworkWish())
    with (
        netns.within(network.router, lambda: _bound("0.0.0.0", 53)) as names,
        inside(box, lambda: _bound("0.0.0.0", 0)) as flooding,
        inside(neighbour, lambda: _bound("0.0.0.0", 0)) as asking,
    ):
        flooding.sendto(b"query", (box[2].gateway, 53))
        query, asker = names.recvfrom(100)
        names.sendto(query, asker)  # from here on its packets are no new connections
        came = 0
        for _ in range(40):
            for _ in range(100):
                flooding.sendto(b"flood", (box[2].gateway, 53))
            came += len(_waiting(names))
        asking.sendto(b"query", (neighbour[2].gateway, 53))
        assert heard(names) == b"query"
    assert 0 < came < 1000


def _waiting(listening: socket.socket) -> list[bytes]:
    """What has come and waits; packets between namespaces of one machine have come when they are sent."""
    listening.setblocking(False)
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(listening.recv(100))
    return found


def _bound(address: str, port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.bind((address, port))
    return bound


def _raw(protocol: int) -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)


def _sniffer(link: str) -> socket.socket:
    """IPv6 packets as they come from a link."""
    sniffing = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x86DD))
    sniffing.bind((link, 0x86DD))
    sniffing.settimeout(5)
    return sniffing
