"""What sandboxes reach, with real packets."""

import socket
from pathlib import Path

import pytest

from boxkeep_server.model.node_api import NetworkWish
from boxkeep_server.node import netns
from boxkeep_server.node.network import Network
from tests.system.network.world import (
    HOST,
    INSIDE,
    OPENED,
    OTHER_PUBLIC,
    PUBLIC,
    SUBNET,
    Listeners,
    boxed,
    dial,
    errno_of,
    heard,
    inside,
    rules,
)


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


async def test_sandboxes_do_not_reach_each_other(network: Network) -> None:
    one, two = await boxed(network, 3, NetworkWish()), await boxed(network, 4, NetworkWish())
    listening = Listeners(two[2].netns_path, ("0.0.0.0",), 7071)
    assert inside(one, lambda: dial(two[2].address, 7071)) == "ECONNREFUSED"
    assert listening.accepted == 0
    listening.close()


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


async def test_a_machine_can_send_as_soon_as_it_is_attached(network: Network) -> None:
    """A packet that the kernel drops because the link is not ready is sent again a second later: dialling notices."""
    for _ in range(25):
        machine, index, _ = box = await boxed(network, 3, NetworkWish())
        assert inside(box, lambda: dial(PUBLIC, within_s=0.9)) == "hello"
        await network.detach(machine, index)


async def test_an_open_connection_ends_when_its_egress_is_taken_away(network: Network, world: Path) -> None:
    listening = netns.within(world, lambda: socket.create_server((PUBLIC, 9000)))
    machine, index, _ = box = await boxed(network, 3, NetworkWish())
    with listening, inside(box, lambda: socket.create_connection((PUBLIC, 9000), 5)) as ours:
        theirs, _ = listening.accept()
        with theirs:
            await network.set_egress(machine, index, NetworkWish(internet=False))
            ours.sendall(b"secret")
            assert errno_of(lambda: ours.recv(1)) in {"ECONNREFUSED", "ECONNRESET"}
            assert heard(theirs) == b""


async def test_what_is_still_sent_after_egress_was_taken_away_is_not_heard(network: Network, world: Path) -> None:
    machine, index, _ = box = await boxed(network, 3, NetworkWish())
    with (
        netns.within(world, lambda: _bound(PUBLIC, 9001)) as theirs,
        inside(box, lambda: _bound("0.0.0.0", 5000)) as ours,
    ):
        ours.sendto(b"hello", (PUBLIC, 9001))
        came, sender = theirs.recvfrom(100)
        theirs.sendto(came, sender)
        assert heard(ours) == b"hello"
        await network.set_egress(machine, index, NetworkWish(internet=False))
        theirs.sendto(came, sender)
        assert heard(ours) == b""


async def test_one_allow_list_takes_the_place_of_another_that_overlaps(network: Network) -> None:
    machine, index, _ = box = await boxed(network, 3, NetworkWish(allow=("203.0.113.0/24",)))
    await network.set_egress(machine, index, NetworkWish(allow=(f"{PUBLIC}/32", "203.0.113.128/25")))
    assert inside(box, lambda: dial(PUBLIC)) == "hello"
    assert inside(box, lambda: dial(OTHER_PUBLIC)) == "ECONNREFUSED"
    await network.detach(machine, index)
    assert "bhnet" not in rules(network, "allowed")


async def test_pings_are_answered_by_what_may_be_reached_alone(network: Network) -> None:
    box = await boxed(network, 3, NetworkWish())
    assert "1 received" in inside(box, lambda: _ping(PUBLIC))
    assert "1 received" not in inside(box, lambda: _ping("10.1.2.3"))


def _ping(address: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as pinging:
        pinging.sendto(b"\x08\0\0\0\0\0\0\x01", (address, 0))
        return "1 received" if heard(pinging)[:1] == b"\0" else "none"


def _bound(address: str, port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.bind((address, port))
    return bound
