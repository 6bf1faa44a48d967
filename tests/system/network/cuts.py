"""Machines that are cut off: what they have open to the outside is reset at both ends, and nothing else is."""

import contextlib
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from boxkeep_server.guestwire import GuestPool
from boxkeep_server.model.node_api import NetworkWish
from boxkeep_server.node import netns
from boxkeep_server.node.addresses import Addresses
from boxkeep_server.node.bodies import Bodies
from boxkeep_server.node.cgroups import Cgroups, layout
from boxkeep_server.node.disks import Disks
from boxkeep_server.node.layer import MachineFailed
from boxkeep_server.node.machines import Machines
from boxkeep_server.node.network import Network
from boxkeep_server.node.oci import Ceilings, Host
from boxkeep_server.node.parts import Guest, Parts
from boxkeep_server.node.plain_directory import PlainDirectory
from boxkeep_server.node.records import Machine
from tests.system.network.world import OTHER_PUBLIC, PUBLIC, Box, Listeners, boxed, dial, errno_of, inside, rules

SILENT = "203.0.113.99"
LOST = {"ECONNRESET", "ECONNREFUSED"}


@contextlib.contextmanager
def connected(box: Box, world: Path, number: int = 1) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """Connections from a box to the outside, both ends of each."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(
            netns.within(world, lambda: socket.create_server((PUBLIC, 9000), backlog=number))
        )
        ours = inside(box, lambda: [socket.create_connection((PUBLIC, 9000), 5) for _ in range(number)])
        pairs = {one.getsockname()[1]: stack.enter_context(one) for one in ours}
        found = []
        for _ in range(number):
            theirs, (_, port) = listening.accept()
            theirs.settimeout(5)
            found.append((pairs[port], stack.enter_context(theirs)))
        yield found


def lost(one: socket.socket) -> str:
    return errno_of(lambda: one.recv(1))


def goes_on(one: socket.socket, other: socket.socket) -> bool:
    one.sendall(b"x")
    other.sendall(b"y")
    return (one.recv(1), other.recv(1)) == (b"y", b"x")


@pytest.mark.parametrize("number", [1, 300])
async def test_both_ends_of_what_is_open_see_a_reset(network: Network, world: Path, number: int) -> None:
    box = await boxed(network, 3, NetworkWish())
    with connected(box, world, number) as pairs:
        await network.cut_off(box[0], box[1])
        assert {lost(ours) for ours, _ in pairs} == {"ECONNRESET"}
        assert {lost(theirs) for _, theirs in pairs} == {"ECONNRESET"}


async def test_a_connection_with_words_under_way_is_reset_too(network: Network, world: Path) -> None:
    box = await boxed(network, 3, NetworkWish())
    with connected(box, world) as [(ours, theirs)]:
        ours.sendall(b"word" * 1000)
        theirs.sendall(b"word" * 1000)
        await network.cut_off(box[0], box[1])
        while (outcome := lost(ours)) == "done":
            pass
        assert outcome == "ECONNRESET"
        while (outcome := lost(theirs)) == "done":
            pass
        assert outcome == "ECONNRESET"


async def test_one_that_half_of_is_closed_is_reset(network: Network, world: Path) -> None:
    box = await boxed(network, 3, NetworkWish())
    with connected(box, world, 2) as [(ours, theirs), (closing, closed)]:
        ours.shutdown(socket.SHUT_WR)
        assert theirs.recv(1) == b""
        closed.shutdown(socket.SHUT_WR)
        assert closing.recv(1) == b""
        await network.cut_off(box[0], box[1])
        assert lost(ours) == "ECONNRESET"
        assert errno_of(lambda: closing.sendall(b"x")) in {"ECONNRESET", "EPIPE"}
        assert lost(closed) == "ECONNRESET"


async def test_one_that_nobody_answers_yet_is_refused(network: Network, world: Path) -> None:
    netns.within(world, lambda: netns.ip(f"route replace blackhole {SILENT}"))
    box = await boxed(network, 3, NetworkWish())
    with inside(box, socket.socket) as ours:
        ours.setblocking(False)
        assert errno_of(lambda: ours.connect((SILENT, 80))) == "EINPROGRESS"
        await network.cut_off(box[0], box[1])
        ours.settimeout(5)
        assert lost(ours) in LOST


async def test_neighbours_what_is_within_and_what_has_reached_the_guest_go_on(network: Network, world: Path) -> None:
    box, neighbour = await boxed(network, 3, NetworkWish()), await boxed(network, 4, NetworkWish())
    with contextlib.ExitStack() as stack:
        [(ours, theirs)] = stack.enter_context(connected(neighbour, world))
        guest = stack.enter_context(inside(box, lambda: socket.create_server(("0.0.0.0", 7071))))
        host = stack.enter_context(socket.create_connection((box[2].address, 7071), 5))
        heard = stack.enter_context(guest.accept()[0])
        listening = stack.enter_context(inside(box, lambda: socket.create_server(("127.0.0.1", 8000))))
        one = stack.enter_context(inside(box, lambda: socket.create_connection(("127.0.0.1", 8000), 5)))
        other = stack.enter_context(listening.accept()[0])
        await network.cut_off(box[0], box[1])
        assert goes_on(one, other)
        assert goes_on(ours, theirs)
        assert goes_on(host, heard)


async def test_nobody_reaches_the_guest_anew_until_it_is_readmitted_and_then_they_do(network: Network) -> None:
    box = await boxed(network, 3, NetworkWish())
    guest = Listeners(box[2].netns_path, ("0.0.0.0",), 7071)
    await network.cut_off(box[0], box[1])
    with socket.socket() as host:
        host.setblocking(False)
        assert errno_of(lambda: host.connect((box[2].address, 7071))) == "EINPROGRESS"
        host.settimeout(0.5)
        assert errno_of(lambda: host.recv(1)) == "hangs"
        await network.readmit(box[1])
        host.settimeout(10)
        assert host.recv(5) == b"hello"
    guest.close()


async def test_nothing_is_opened_until_it_is_readmitted(network: Network, world: Path) -> None:
    box = await boxed(network, 3, NetworkWish(allow=(f"{PUBLIC}/32",)))
    for _ in range(2):
        await network.cut_off(*box[:2])
        assert inside(box, lambda: dial(PUBLIC)) == "ECONNREFUSED"
        await network.readmit(box[1])
        assert inside(box, lambda: dial(PUBLIC)) == "hello"
        assert inside(box, lambda: dial(OTHER_PUBLIC)) == "ECONNREFUSED"
    await network.readmit(box[1])


async def test_who_takes_the_place_of_one_that_was_cut_off_gets_out(network: Network) -> None:
    machine, index, _ = await boxed(network, 3, NetworkWish())
    await network.cut_off(machine, index)
    assert network.link(index) in rules(network, "cut")
    await network.detach(machine, index)
    assert network.link(index) not in rules(network, "cut")
    box = await boxed(network, 3, NetworkWish())
    assert inside(box, lambda: dial(PUBLIC)) == "hello"


async def test_a_cut_off_machine_stays_so_when_a_new_node_takes_over(network: Network, tmp_path: Path) -> None:
    box = await boxed(network, 3, NetworkWish())
    await network.cut_off(*box[:2])
    again = Network("hnet", str(network.plan.subnet), tmp_path, uids=[0])
    await again.setup()
    assert inside(box, lambda: dial(PUBLIC)) == "ECONNREFUSED"
    await again.readmit(box[1])
    assert inside(box, lambda: dial(PUBLIC)) == "hello"


async def test_a_machine_that_goes_on_after_all_is_let_out_even_when_its_guest_is_silent(
    network: Network, tmp_path: Path
) -> None:
    box = await boxed(network, 3, NetworkWish())
    machine, bodies = record(box), bodies_on(network, tmp_path)
    await network.cut_off(*box[:2])
    with pytest.raises(MachineFailed):
        await bodies.unstill(machine, 1, machine.secret)
    assert inside(box, lambda: dial(PUBLIC)) == "hello"


def record(box: Box) -> Machine:
    return Machine(
        id=box[0],
        born_as=box[0],
        isolation="runsc",
        image="base",
        digest="0" * 32,
        index=box[1],
        address=box[2].address,
        port=7071,
        secret="0" * 64,
        epoch=1,
        boot_id="",
        netns=str(box[2].netns_path),
    )


def bodies_on(network: Network, directory: Path) -> Bodies:
    """Machines on a network, of which nothing but the network is there."""
    disks = Disks(PlainDirectory(directory / "disks", directory / "mounted"))
    cgroups = Cgroups(layout(Path("/proc/mounts").read_text()), "boxkeep-hnet")
    parts = Parts(
        disks=disks,
        cgroups=cgroups,
        network=network,
        addresses=Addresses(network.plan.size, time.monotonic, (), directory / "resting.json"),
        runtimes={},
        guest=Guest(directory, ()),
        host=Host(open_files=1024, swap_accounting=False),
    )
    return Bodies(
        machines=Machines(directory / "lib", directory / "run", parts),
        disks=disks,
        cgroups=cgroups,
        egress=network,
        guests=GuestPool(),
        ceilings=Ceilings(memory_bytes=1 << 30, cpus=1.0, pids=64, disk_bytes=1 << 30),
    )


async def test_connections_of_a_machine_that_answers_nothing_are_told_of(
    network: Network, world: Path, caplog: pytest.LogCaptureFixture
) -> None:
    box = await boxed(network, 3, NetworkWish())
    with connected(box, world, 3), caplog.at_level(logging.INFO):
        inside(box, lambda: netns.ip("link set eth0 down"))
        await network.cut_off(*box[:2])
    assert f"of 3 connections of machine {box[0]} 3 do not go" in caplog.text


async def test_what_cannot_be_cut_off_raises_nothing(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    box = await boxed(network, 3, NetworkWish())
    await network.teardown()
    await network.cut_off(*box[:2])
    assert "are not reset" in caplog.text
