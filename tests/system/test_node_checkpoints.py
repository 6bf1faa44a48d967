"""Checkpoints by the node daemon, with real runtimes, real guests, real kills and real damage."""

import asyncio
import os
import random
import signal

import pytest

from boxkeep_server.model.ids import new_id
from boxkeep_server.model.node_api import Claim
from tests.system.node_process import DISKS, Node
from tests.system.test_node_pauses import BOTH, COUNTER, counted, passes, pool

pytest_plugins = ["tests.system.node_fixtures"]


async def forked(node: Node, claim: Claim, checkpoint: str, **fields: object) -> Claim:
    return await node.claim(claim.isolation, checkpoint=checkpoint, fork=True, **fields)


@DISKS
@BOTH
async def test_files_of_a_running_machine_are_kept_and_any_number_of_others_go_on_from_them(
    node: Node, isolation: str
) -> None:
    claim = await node.claim(isolation)
    process, _ = await node.run(claim, COUNTER, background=True)
    await passes(node, claim, 5)
    await node.run(claim, "echo installed > /usr/bin/package; echo secret > /workspace/own")
    before = await counted(node, claim)
    checkpoint = new_id()
    snapshot = await node.checkpoint(claim, checkpoint)
    assert (snapshot.keeps, snapshot.checkpoint, snapshot.lost) == ("files", checkpoint, None)
    assert await node.checkpoint(claim, checkpoint) == snapshot
    await passes(node, claim, await counted(node, claim))
    await node.run(claim, "rm /usr/bin/package; echo changed > /workspace/own")
    names = (await node.run(claim, "cat /etc/machine-id /run/boxkeep/generation"))[1]
    forks = await asyncio.gather(*(forked(node, claim, checkpoint, hostname=f"fork-{n}") for n in range(2)))
    seen = {names}
    for number, fork in enumerate(forks):
        assert (await node.run(fork, "cat /usr/bin/package /workspace/own; hostname"))[1] == (
            f"installed\nsecret\nfork-{number}\n"
        )
        assert await counted(node, fork) >= before
        seen.add((await node.run(fork, "cat /etc/machine-id /run/boxkeep/generation"))[1])
        await node.run(fork, "echo mine > /workspace/own")
    assert len(seen) == 3
    assert (await node.run(claim, "cat /workspace/own"))[1] == "changed\n"
    assert (await node.run(claim, f"kill -0 {process['pid']} && echo lives"))[1] == "lives\n"
    await node.release(claim)
    late = await forked(node, claim, checkpoint)
    assert (await node.run(late, "cat /workspace/own"))[1] == "secret\n"
    for fork in (*forks, late):
        await node.release(fork)
    assert await node.forget(checkpoint) == 1
    assert await node.forget(checkpoint) == 0
    assert await node.leaks() == 0
    assert not list((pool(node) / "snapshots").iterdir())


@DISKS
async def test_memory_is_kept_with_the_files_of_the_same_moment_while_the_machine_goes_on(node: Node) -> None:
    claim = await node.claim("runsc", env={"COLOUR": "green"})
    # Of nine that count without a rest none would get anywhere on two processors.
    program = "i=0; while :; do i=$((i+1)); echo $i > /tmp/new; mv /tmp/new /tmp/count; sleep 0.2; done"
    process, _ = await node.run(claim, program, background=True)
    await passes(node, claim, 5)
    checkpoint = new_id()
    snapshot = await node.checkpoint(claim, checkpoint, memory=True)
    assert (snapshot.keeps, snapshot.lost) == ("memory", None)
    await passes(node, claim, await counted(node, claim))
    at = int((pool(node) / "snapshots" / checkpoint / "disk/upper/tmp/count").read_text())
    await node.run(claim, f"kill {process['pid']}")
    forks = [await forked(node, claim, checkpoint, hostname=f"fork-{number}") for number in range(2)]
    for number, fork in enumerate(forks):
        await passes(node, fork, at)
        said = (await node.run(fork, f"kill -0 {process['pid']} && hostname; cat /etc/hostname"))[1]
        assert said == f"fork-{number}\nfork-{number}\n"
    more = await asyncio.gather(*(forked(node, claim, checkpoint, hostname=f"many-{number}") for number in range(6)))
    for number, fork in enumerate(more):
        assert (await node.run(fork, "hostname"))[1] == f"many-{number}\n", "calls go astray among forks"
        await node.release(fork)
    identities = {(await node.run(fork, "cat /etc/machine-id /run/boxkeep/generation"))[1] for fork in forks}
    assert len(identities) == 2


async def test_under_runc_memory_is_not_kept_and_that_is_said(node: Node) -> None:
    claim = await node.claim("runc")
    snapshot = await node.checkpoint(claim, new_id(), memory=True)
    assert snapshot.keeps == "files"
    assert snapshot.lost is not None


@BOTH
async def test_of_a_dead_machine_its_files_are_kept(node: Node, isolation: str) -> None:
    claim = await node.claim(isolation)
    await node.run(claim, "echo work > /workspace/own; sync")
    record = node.record(claim)
    os.kill(int(str(record["pid"])), signal.SIGKILL)
    await node.death_of(claim)
    checkpoint = new_id()
    assert (await node.checkpoint(claim, checkpoint)).keeps == "files"
    await node.release(claim)
    fork = await forked(node, claim, checkpoint)
    assert (await node.run(fork, "cat /workspace/own"))[1] == "work\n"


@DISKS
@pytest.mark.parametrize("memory", [False, True])
@BOTH
async def test_a_node_that_is_killed_at_a_checkpoint_leaves_a_machine_that_goes_on(
    node: Node, isolation: str, memory: bool
) -> None:
    claim = await node.claim(isolation)
    await node.run(claim, COUNTER, background=True)
    dice = random.Random(7)
    for _ in range(3):
        await passes(node, claim, await counted(node, claim))
        checkpoint = new_id()
        taking = asyncio.create_task(node.checkpoint(claim, checkpoint, memory=memory))
        await asyncio.sleep(dice.uniform(0, 0.4 if memory else 0.08))
        await node.stop(signal.SIGKILL)
        await asyncio.gather(taking, return_exceptions=True)
        node.guests.forget(node.way_to(claim))
        await node.start()
        async with asyncio.timeout(20):
            while (await node.get(claim)).state != "running":
                await asyncio.sleep(0.01)
        await passes(node, claim, await counted(node, claim))
        assert (await node.checkpoint(claim, checkpoint, memory=memory)).checkpoint == checkpoint
        fork = await forked(node, claim, checkpoint)
        assert await counted(node, fork) > 0
        await node.release(fork)
    assert await node.leaks() == 0


async def test_a_damaged_checkpoint_is_refused_and_nothing_of_it_runs(node: Node) -> None:
    claim = await node.claim("runsc")
    checkpoint = new_id()
    await node.checkpoint(claim, checkpoint, memory=True)
    pages = pool(node) / "snapshots" / checkpoint / "memory" / "pages.img"
    with pages.open("r+b") as file:
        file.seek(4096)
        byte = file.read(1)
        file.seek(4096)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(AssertionError, match="unfit"):
        await forked(node, claim, checkpoint)
    assert (await node.run(claim, "echo on"))[1] == "on\n"
