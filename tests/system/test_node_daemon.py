"""The node daemon as a process of its own, with real runtimes, real guests and real kills."""

import asyncio
import base64
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from boxkeep_server.guestwire import GuestAddress, GuestRefused
from boxkeep_server.model.node_api import Claims, NodeFacts
from tests.system.node_ground import INSTANCE, seen_in_kernel
from tests.system.node_process import DISKS, NOTHING, READY_S, ROOT, Node, end, environment, now_ms

pytest_plugins = ["tests.system.node_fixtures"]


@pytest.mark.parametrize("isolation", ["runc", "runsc"])
async def test_a_machine_is_claimed_used_and_released(node: Node, isolation: str) -> None:
    claim = await node.claim(isolation, env={"COLOUR": "green"})
    process, said = await node.run(claim, "echo $COLOUR; hostname")
    assert (process["exitCode"], said.split()) == (0, ["green", "named"])
    assert (await node.get(claim)).memory_bytes
    await node.release(claim)
    assert seen_in_kernel() == NOTHING
    assert await node.leaks() == 0


@pytest.mark.parametrize("isolation", ["runc", "runsc"])
async def test_a_machine_outlives_a_killed_node_with_its_processes(node: Node, isolation: str) -> None:
    claim = await node.claim(isolation)
    process, _ = await node.run(claim, "sleep 300", background=True)
    before = node.record(claim)
    await node.stop(signal.SIGKILL)
    _, said = await node.run(claim, "echo on its own")
    assert said == "on its own\n"
    await node.start()
    again = await node.get(claim)
    assert (again.state, again.machine, again.secret) == ("running", claim.machine, claim.secret)
    assert node.record(claim) == before
    _, said = await node.run(claim, f"cat /proc/{process['pid']}/cmdline")
    assert "sleep" in said
    remains = await node.release(claim)
    assert process["id"] in remains.tails
    assert seen_in_kernel() == NOTHING
    assert await node.leaks() == 0


async def test_a_node_told_to_stop_leaves_its_machines(node: Node) -> None:
    claim = await node.claim("runc")
    await node.stop(signal.SIGTERM)
    assert node.process is not None
    assert node.process.returncode == 0
    assert (await node.run(claim, "echo here"))[1] == "here\n"
    await node.start()
    assert (await node.get(claim)).state == "running"


async def test_as_the_host_goes_down_machines_are_killed_at_once_and_found_dead(node: Node) -> None:
    claims = [await node.claim(isolation) for isolation in ("runc", "runsc")]
    await node.stop(signal.SIGTERM)
    halt = [sys.executable, "-m", "boxkeep.cli", "halt"]
    told = {**environment(), "BOXKEEP_INSTANCE": INSTANCE, "PYTHONPATH": os.pathsep.join(sys.path)}
    await asyncio.to_thread(subprocess.run, halt, env=told, cwd=ROOT, check=True, timeout=READY_S)
    await node.start()
    for claim in claims:
        assert (await node.death_of(claim)).reason == "exited"
        await node.release(claim)
    assert seen_in_kernel() == NOTHING


async def test_only_one_node_of_an_instance_lives(node: Node) -> None:
    ran = await asyncio.to_thread(
        subprocess.run, node.command(), env=environment(), cwd=ROOT, capture_output=True, timeout=READY_S, check=False
    )
    assert ran.returncode != 0
    assert b"lives already" in ran.stderr
    assert (await node.claim("runc")).state == "running"


@pytest.mark.parametrize("isolation", ["runc", "runsc"])
async def test_a_node_killed_in_the_middle_of_claims_leaves_no_stray(node: Node, isolation: str) -> None:
    for delay in (0.0, 0.03, 0.1, 0.2):
        claiming = [asyncio.ensure_future(node.claim(isolation)) for _ in range(3)]
        await asyncio.sleep(delay)
        await node.stop(signal.SIGKILL)
        await asyncio.gather(*claiming, return_exceptions=True)
        await node.start()
        claims = Claims.model_validate_json(await node.ask("GET", "/v1/claims")).claims
        assert all(claim.state != "dead" for claim in claims)
        for claim in claims:
            await node.release(claim)
        assert seen_in_kernel() == NOTHING, delay
        assert await node.leaks() == 0


async def test_a_machine_that_dies_under_the_node_is_reported_with_its_reason(node: Node) -> None:
    claim = await node.claim("runc")
    os.kill(int(str(node.record(claim)["pid"])), signal.SIGKILL)
    dead = await node.death_of(claim)
    assert dead.reason == "exited"
    remains = await node.release(claim)
    assert remains.died_at is not None
    assert seen_in_kernel() == NOTHING


@pytest.mark.parametrize("isolation", ["runc", "runsc"])
async def test_the_node_alone_ends_a_machine_whose_time_is_up(node: Node, isolation: str) -> None:
    claim = await node.claim(isolation, not_after=now_ms() + 3_000)
    dead = await node.death_of(claim)
    assert dead.reason == "expired"
    await node.release(claim)
    assert seen_in_kernel() == NOTHING


async def test_warm_machines_are_made_taken_and_survive_a_killed_node(directory: Path, bundles: Path) -> None:
    node = Node(directory, bundles, {"base/runc": 2, "base/runsc": 1})
    await node.start()
    try:
        await _warm(node, 3)
        await node.stop(signal.SIGKILL)
        await node.start()
        facts = NodeFacts.model_validate_json(await node.ask("GET", "/v1/node"))
        assert facts.warm == {"base/runc": 2, "base/runsc": 1}
        claims = [await node.claim("runc"), await node.claim("runsc", env={"A": base64.b64encode(b"x").decode()})]
        for claim in claims:
            assert (await node.run(claim, "hostname"))[1] == "named\n"
        await _warm(node, 3)
        for claim in claims:
            await node.release(claim)
    finally:
        await end(node)


async def _warm(node: Node, number: int) -> None:
    async with asyncio.timeout(READY_S):
        while True:
            facts = NodeFacts.model_validate_json(await node.ask("GET", "/v1/node"))
            if sum(facts.warm.values()) == number:
                return
            await asyncio.sleep(0.05)


async def test_the_secret_a_machine_was_born_with_opens_nothing_after_the_claim(node: Node) -> None:
    claim = await node.claim("runc")
    born = str(node.record(claim)["secret"])
    old = GuestAddress(claim.address, claim.port, claim.machine, 0, bytes.fromhex(born))
    with pytest.raises(GuestRefused, match="unauthorised"):
        await node.guests.call(old, {"op": "ping"})


@DISKS
async def test_taking_down_leaves_nothing_and_says_whose_machines_there_were(node: Node) -> None:
    claims = [await node.claim("runc"), await node.claim("runsc")]
    await node.stop(signal.SIGKILL)
    assert await node.take_down() == sorted(claim.sandbox for claim in claims)
    assert seen_in_kernel() == NOTHING
    assert not (Path("/sys/fs/cgroup/memory") / f"boxkeep-{INSTANCE}").exists()
    assert not any(str(node.directory) in line for line in Path("/proc/mounts").read_text().splitlines())
    assert await node.take_down() == []
