"""The network and its host: who reaches guests, rules of others, restarts, halves, and what is left over."""

import asyncio
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from boxkeep_server.model.ids import new_id
from boxkeep_server.model.node_api import NetworkWish
from boxkeep_server.node import netns
from boxkeep_server.node.network import Network
from boxkeep_server.node.nftables import Nftables
from tests.system.network.world import (
    HOST,
    OPENED,
    PUBLIC,
    SUBNET,
    Listeners,
    boxed,
    dial,
    host_rules,
    inside,
    neighbour,
    rules,
)


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
    assert await asyncio.to_thread(_as_nobody, lambda: dial(box[2].address, 7071)) == "ECONNREFUSED"
    assert guest.accepted == 0
    guest.close()


async def test_a_flush_of_the_hosts_rules_opens_nothing_and_is_mended(network: Network) -> None:
    box = await boxed(network, 3, NetworkWish())
    netns.run(["nft", "flush", "ruleset"])
    assert inside(box, lambda: dial("169.254.169.254")) == "ECONNREFUSED"
    assert inside(box, lambda: dial("10.1.2.3")) == "ECONNREFUSED"
    await network.check()
    assert inside(box, lambda: dial(PUBLIC)) == "hello"


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


async def test_a_hundred_attach_and_detach_at_once(network: Network) -> None:
    boxes = await asyncio.gather(*(boxed(network, index, NetworkWish()) for index in range(10, 110)))
    assert inside(boxes[-1], lambda: dial(PUBLIC)) == "hello"
    await asyncio.gather(*(network.detach(machine, index) for machine, index, _ in boxes))
    assert await network.found() == []
    assert "bhnet" not in netns.within(network.router, lambda: netns.run(["ip", "link"]))


async def test_a_container_of_the_host_does_not_reach_guests(network: Network, tmp_path: Path) -> None:
    box = await boxed(network, 3, NetworkWish())
    guest = Listeners(box[2].netns_path, ("0.0.0.0",), 7071)
    with neighbour(tmp_path / "container") as container:
        assert netns.within(container, lambda: dial(box[2].address, 7071)) == "ECONNREFUSED"
        assert netns.within(container, lambda: dial(PUBLIC)) == "hello"
    assert guest.accepted == 0
    guest.close()


async def test_a_forward_policy_as_docker_sets_it_is_mended_and_left_as_it_was(tmp_path: Path, world: Path) -> None:
    netns.run(["iptables", "-P", "FORWARD", "DROP"])
    before = netns.run(["iptables", "-S"])
    network = Network("hnet", SUBNET, tmp_path, uids=[0])
    await network.setup()
    box = await boxed(network, 3, NetworkWish())
    assert inside(box, lambda: dial(PUBLIC)) == "hello"
    netns.run(["iptables", "-F", "FORWARD"])
    await network.check()
    assert inside(box, lambda: dial(PUBLIC)) == "hello"
    netns.run(["iptables", "-N", "DOCKER-USER"])
    netns.run(["iptables", "-I", "FORWARD", "-j", "DROP"])
    netns.run(["iptables", "-I", "FORWARD", "-j", "DOCKER-USER"])
    await network.check()
    assert inside(box, lambda: dial(PUBLIC)) == "hello"
    await network.teardown()
    netns.run(["iptables", "-F", "FORWARD"])
    netns.run(["iptables", "-X", "DOCKER-USER"])
    assert netns.run(["iptables", "-S"]) == before
    netns.run(["iptables", "-P", "FORWARD", "ACCEPT"])


@pytest.mark.parametrize("chain", ["policy drop;", "policy accept;\ncounter reject"])
async def test_rules_made_by_nft_that_stop_the_uplink_make_room_for_it(network: Network, chain: str) -> None:
    box = await boxed(network, 3, NetworkWish())
    host_rules(f"table inet theirs {{\nchain f {{\ntype filter hook forward priority 10; {chain}\n}}\n}}\n")
    await network.check()
    assert inside(box, lambda: dial(PUBLIC)) == "hello"
    await network.teardown()
    assert "boxkeep" not in netns.run(["nft", "list", "ruleset"])
    netns.run(["nft", "delete", "table", "inet", "theirs"])


OTHERS = Path(__file__).parent / "others"


@contextmanager
def rules_of(keeper: str) -> Iterator[None]:
    """The host's rules as another program has set them."""
    rules = (OTHERS / keeper).read_text()
    netns.run(["nft", "-f", "-"] if keeper.endswith(".nft") else ["iptables-restore"], rules)
    try:
        yield
    finally:
        netns.run(["nft", "flush", "ruleset"])


@pytest.mark.parametrize("keeper", ["docker.rules", "ufw.rules", "firewalld.nft"])
async def test_under_rules_of_others_all_goes_on_and_theirs_are_left_as_they_were(
    keeper: str, tmp_path: Path, world: Path
) -> None:
    with rules_of(keeper):
        before = netns.run(["nft", "--stateless", "list", "ruleset"])
        network = Network("hnet", SUBNET, tmp_path, uids=[0], opened=[(HOST, 3142)])
        await network.setup()
        box = await boxed(network, 3, NetworkWish())
        guest, mirror = Listeners(box[2].netns_path, ("0.0.0.0",), 7071), Listeners(None, (HOST,), 3142)
        assert inside(box, lambda: dial(PUBLIC)) == "hello"
        assert inside(box, lambda: dial(HOST, 3142)) == "hello"
        assert dial(box[2].address, 7071) == "hello"
        assert inside(box, lambda: dial("10.1.2.3")) == "ECONNREFUSED"
        settled = netns.run(["nft", "--stateless", "list", "ruleset"])
        await network.check()
        assert netns.run(["nft", "--stateless", "list", "ruleset"]) == settled
        guest.close()
        mirror.close()
        await network.teardown()
        assert netns.run(["nft", "--stateless", "list", "ruleset"]) == before


async def test_where_firewalld_owns_its_table_it_is_asked_to_trust_the_uplink(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _with_a_firewalld_that_is_asked(tmp_path, monkeypatch)
    box = await boxed(network, 3, NetworkWish())
    firewalld = Nftables()  # whoever makes such a table is its owner as long as they live
    chain = "chain f {\ntype filter hook forward priority 10; policy drop;\nct state established accept\n}"
    firewalld.change(f"table inet firewalld {{\nflags owner\n{chain}\n}}\n")
    await network.check()
    assert asked.read_text() == "--quiet --zone=trusted --change-interface=uhneth\n"
    firewalld.change('add rule inet firewalld f iifname "uhneth" accept')
    assert inside(box, lambda: dial(PUBLIC)) == "hello"
    await network.check()
    assert len(asked.read_text().splitlines()) == 1
    await network.teardown()
    assert asked.read_text().splitlines()[1:] == ["--quiet --zone=trusted --remove-interface=uhneth"]
    firewalld.close()


def _with_a_firewalld_that_is_asked(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a program in firewalld's place that only writes down what it is asked; where it does."""
    asked, program = directory / "asked", directory / "bin" / "firewall-cmd"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >>{asked}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return asked


@pytest.mark.parametrize("hook", ["input", "output"])
@pytest.mark.parametrize("by", ["iptables", "nft"])
async def test_a_host_that_hears_or_says_nothing_still_reaches_guests(network: Network, hook: str, by: str) -> None:
    box = await boxed(network, 3)
    guest = Listeners(box[2].netns_path, ("0.0.0.0",), 7071)
    if by == "nft":
        host_rules(f"table inet shut {{\nchain c {{\ntype filter hook {hook} priority 0; policy drop;\n}}\n}}\n")
    else:
        netns.run(["iptables", "-P", hook.upper(), "DROP"])
    await network.check()
    assert dial(box[2].address, 7071) == "hello"
    guest.close()
    await network.teardown()
    assert "uhneth" not in netns.run(["nft", "list", "ruleset"])
    if by == "nft":
        netns.run(["nft", "delete", "table", "inet", "shut"])
    else:
        netns.run(["iptables", "-P", hook.upper(), "ACCEPT"])


async def test_rules_of_others_that_only_count_are_left_alone(network: Network) -> None:
    host_rules("table ip counts {\n chain f {\n type filter hook forward priority 5;\n counter\n }\n}\n")
    await network.check()
    assert "accept comment" not in netns.run(["nft", "list", "table", "ip", "counts"])
    netns.run(["nft", "delete", "table", "ip", "counts"])


async def test_rules_taken_out_of_the_own_table_are_set_again(network: Network) -> None:
    box = await boxed(network, 3, NetworkWish())
    netns.run(["nft", "flush", "chain", "inet", "boxkeep_hnet", "postrouting"])
    await network.check()
    assert inside(box, lambda: dial(PUBLIC)) == "hello"


@pytest.mark.parametrize("network_there", ["203.0.113.64/28", "203.0.113.77/32"])
async def test_networks_on_a_link_without_an_address_are_refused(network: Network, network_there: str) -> None:
    netns.ip(f"route add {network_there} dev out0")
    await network.check()
    netns.ip(f"route del {network_there} dev out0")
    assert network_there.removesuffix("/32") in rules(network, "host")
    await network.check()
    assert network_there.removesuffix("/32") not in rules(network, "host")


async def test_a_way_out_through_a_tunnel_is_not_taken_for_a_network_of_the_host(network: Network) -> None:
    netns.ip("route add 128.0.0.0/1 dev out0")
    await network.check()
    netns.ip("route del 128.0.0.0/1 dev out0")
    assert "128.0.0.0" not in rules(network, "host")


async def test_half_an_uplink_is_made_whole(network: Network, tmp_path: Path) -> None:
    box = await boxed(network, 3, NetworkWish())
    netns.run(["ip", "addr", "flush", "dev", "uhneth"])
    await Network("hnet", SUBNET, tmp_path, uids=[0]).setup()
    assert inside(box, lambda: dial(PUBLIC)) == "hello"


async def test_an_uplink_that_somebody_removed_comes_back(network: Network) -> None:
    box = await boxed(network, 3, NetworkWish())
    netns.run(["ip", "link", "del", "uhneth"])
    await network.check()
    assert inside(box, lambda: dial(PUBLIC)) == "hello"


async def test_a_pair_opened_later_takes_effect_under_running_sandboxes(network: Network, tmp_path: Path) -> None:
    box = await boxed(network, 3, NetworkWish())
    again = Network("hnet", SUBNET, tmp_path, uids=[0], opened=[("192.168.7.7", 80)])
    await again.setup()
    assert inside(box, lambda: dial("192.168.7.7")) == "hello"
    assert inside(box, lambda: dial(OPENED)) == "ECONNREFUSED"
    assert await again.open([(OPENED, 80)])
    assert not await again.open([(OPENED, 80)])
    assert inside(box, lambda: dial(OPENED)) == "hello"


async def test_a_mirror_on_the_host_itself_is_reached_when_it_is_opened_and_nothing_beside_it(network: Network) -> None:
    mirror, other = (Listeners(None, ("0.0.0.0",), port) for port in (3142, 3143))
    box = await boxed(network, 3, NetworkWish())
    assert inside(box, lambda: dial("198.51.100.1", 3142)) == "ECONNREFUSED"
    await network.open([("198.51.100.1", 3142)])
    assert inside(box, lambda: dial("198.51.100.1", 3142)) == "hello"
    assert inside(box, lambda: dial("198.51.100.1", 3143)) == "ECONNREFUSED"
    assert inside(box, lambda: dial(network.plan.uplink.gateway, 3142)) == "ECONNREFUSED"
    mirror.close()
    other.close()


async def test_connections_of_a_sandbox_that_died_without_a_word_are_forgotten(network: Network) -> None:
    dying, living = await boxed(network, 3, NetworkWish()), await boxed(network, 4, NetworkWish())

    def connect(silent: bool) -> list[socket.socket]:
        held = [socket.create_connection((PUBLIC, 80), 5) for _ in range(20)]
        if silent:
            netns.ip("link set eth0 down")
        return held

    lived = inside(living, lambda: connect(silent=False))
    died = inside(dying, lambda: connect(silent=True))
    for one in died:
        one.close()
    places = [netns.within(network.router, _connections), _connections()]
    assert all(dying[2].address in place and living[2].address in place for place in places)
    await network.detach(dying[0], dying[1])
    places = [netns.within(network.router, _connections), _connections()]
    assert all(dying[2].address not in place and living[2].address in place for place in places)
    for one in lived:
        one.close()


def _connections() -> str:
    return Path("/proc/thread-self/net/nf_conntrack").read_text()


def _as_nobody(work: Callable[[], str]) -> str:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        os.write(write, work().encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as answer:
        return answer.read()
