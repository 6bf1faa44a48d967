"""IPv6, which sandboxes do not have: not out, not in, though it is switched on all along the way."""

import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest_asyncio

from boxkeep_server.model.node_api import NetworkWish
from boxkeep_server.node import netns
from boxkeep_server.node.network import Network
from tests.system.network.world import Box, Listeners, boxed, dial, inside

OUTSIDE, HOST_OUT = "2001:db8:1::2", "2001:db8:1::1"
HOST_IN, ROUTER = "2001:db8:2::1", "2001:db8:2::2"
GATEWAY, INSIDE = "2001:db8:3::1", "2001:db8:3::2"
MAC = {"out0": 1, "out1": 2, "uhneth": 3, "uhnetr": 4, "bhnet3": 5, "eth0": 6}
"""Each end of each link, with the last byte of its hardware address: neighbours are written down, not asked for."""


@dataclass(frozen=True)
class Way:
    """A sandbox with a whole IPv6 route to the outside, and who listens at its ends."""

    box: Box
    world: Path
    outside: Listeners
    within: Listeners

    def out(self) -> bool:
        """Whether a connection from the sandbox comes about."""
        return bool(inside(self.box, lambda: _arrives(OUTSIDE)))

    def into(self) -> set[bool]:
        """Whether connections to the sandbox come about, from the host and from outside."""
        return {_arrives(INSIDE), netns.within(self.world, lambda: _arrives(INSIDE))}


def _arrives(address: str) -> bool:
    try:
        with socket.create_connection((address, 8000), 0.5) as connection:
            return connection.recv(5) == b"hello"
    except OSError:
        return False


def _end(link: str, address: str, peer: str, peers: str, *routes: str) -> None:
    """Switch IPv6 on at an end of a link, with all that a packet needs to pass."""
    for name, value in (("disable_ipv6", 0), ("forwarding", 1), ("accept_dad", 0)):
        Path(f"/proc/sys/net/ipv6/conf/{link}/{name}").write_text(str(value))
    Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
    netns.ip(
        f"link set {link} address 02:00:00:00:00:0{MAC[link]}",
        f"addr replace {address}/64 dev {link} nodad",
        f"neigh replace {peer} lladdr 02:00:00:00:00:0{MAC[peers]} dev {link} nud permanent",
        *(f"route replace {route} via {peer} dev {link}" for route in routes),
    )


@pytest_asyncio.fixture
async def way(network: Network, world: Path) -> AsyncIterator[Way]:
    box = await boxed(network, 3, NetworkWish())
    sandboxes = ("2001:db8:2::/64", "2001:db8:3::/64")
    netns.within(world, lambda: _end("out1", OUTSIDE, HOST_OUT, "out0", *sandboxes))
    _end("out0", HOST_OUT, OUTSIDE, "out1")
    _end("uhneth", HOST_IN, ROUTER, "uhnetr", sandboxes[1])
    netns.within(network.router, lambda: _end("uhnetr", ROUTER, HOST_IN, "uhneth", "default"))
    netns.within(network.router, lambda: _end("bhnet3", GATEWAY, INSIDE, "eth0"))
    inside(box, lambda: _end("eth0", INSIDE, GATEWAY, "bhnet3", "default"))
    listeners = Listeners(world, (OUTSIDE,), 8000), Listeners(box[2].netns_path, (INSIDE,), 8000)
    yield Way(box, world, *listeners)
    for one in listeners:
        one.close()


async def test_nothing_gets_out_or_in_and_it_is_the_rules_that_stop_it(network: Network, way: Way) -> None:
    assert inside(way.box, lambda: dial(OUTSIDE, 8000)) == "ECONNREFUSED", "not at once"
    assert way.into() == {False}
    netns.within(network.router, lambda: netns.run(["nft", "delete", "table", "inet", "boxkeep"]))
    assert not way.out(), "the host's own table stops it too"
    assert way.into() == {False}
    assert (way.outside.accepted, way.within.accepted) == (0, 0)
    netns.run(["nft", "delete", "table", "inet", "boxkeep_hnet"])
    assert way.out(), "there was no way for the rules to stop"
    assert way.into() == {True}
    await network.check()
    assert not way.out()
