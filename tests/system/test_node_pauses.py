"""Pause and resume by the node daemon, with real runtimes, real guests, real kills and real damage."""

import asyncio
import os
import random
import signal
import subprocess
from pathlib import Path

import pytest

from boxkeep_server.guestwire import GuestPool
from boxkeep_server.model.ids import new_id
from boxkeep_server.model.node_api import Claim, Claims
from boxkeep_server.node import btrfs
from tests.system.node_ground import INSTANCE, seen_in_kernel
from tests.system.node_process import DISKS, NOTHING, Node

pytest_plugins = ["tests.system.node_fixtures"]

BOTH = pytest.mark.parametrize("isolation", ["runc", "runsc"])
COUNTER = "i=0; while :; do i=$((i+1)); echo $i > /tmp/new; mv /tmp/new /tmp/count; sleep 0.02; done"


async def counted(node: Node, claim: Claim) -> int:
    return int((await node.run(claim, "cat /tmp/count 2>/dev/null || echo 0"))[1])


async def passes(node: Node, claim: Claim, number: int) -> None:
    async with asyncio.timeout(30):
        while await counted(node, claim) <= number:
            await asyncio.sleep(0.02)


def pool(node: Node) -> Path:
    """The pool as the node sees it."""
    assert node.process is not None
    return Path(f"/proc/{node.process.pid}/root") / str(node.directory / "run" / INSTANCE / "pool").lstrip("/")


def kept(node: Node, claim: Claim) -> Path:
    return pool(node) / "snapshots" / f"{claim.sandbox}-{claim.epoch}-main"


async def test_processes_go_on_through_ten_pauses_and_lose_nothing(node: Node) -> None:
    claim = await node.claim("runsc", env={"COLOUR": "green"})
    process, _ = await node.run(claim, COUNTER, background=True)
    for _ in range(10):
        await passes(node, claim, await counted(node, claim))
        before = await counted(node, claim)
        snapshot = await node.pause(claim)
        assert (snapshot.keeps, snapshot.lost) == ("memory", None)
        assert int((kept(node, claim) / "disk/upper/tmp/count").read_text()) >= before
        assert seen_in_kernel() == NOTHING
        assert await node.leaks() == 0
        resumed = await node.resume(claim, env={"COLOUR": "green"})
        assert resumed.secret != claim.secret
        assert await counted(node, resumed) >= before
        assert await node.discard(claim) == 1
        claim = resumed
    _, said = await node.run(claim, f"cat /proc/{process['pid']}/cmdline; cat /run/boxkeep/generation; hostname")
    assert said.endswith("11\nnamed\n")
    assert "while" in said


@DISKS
async def test_files_are_kept_under_runc_and_the_answer_says_so(node: Node) -> None:
    claim = await node.claim("runc")
    process, _ = await node.run(claim, COUNTER, background=True)
    await passes(node, claim, 3)
    await node.run(claim, "echo installed > /usr/bin/package")
    snapshot = await node.pause(claim)
    assert snapshot.keeps == "files"
    assert seen_in_kernel() == NOTHING
    resumed = await node.resume(claim)
    stood = await counted(node, resumed)
    assert stood > 3
    assert (await node.run(resumed, "cat /usr/bin/package; cat /run/boxkeep/generation"))[1] == "installed\n2\n"
    assert await counted(node, resumed) == stood
    address = {"op": "process.get", "id": process["id"]}
    assert (await node.guests.call(node.way_to(resumed), address))["process"]["outcome"] == "signalled"


async def test_a_paused_sandbox_is_resumed_by_a_node_that_was_started_anew(node: Node) -> None:
    claims = [await node.claim("runc"), await node.claim("runsc")]
    for claim in claims:
        await node.run(claim, "echo kept > /root/file")
        await node.pause(claim)
    await node.stop(signal.SIGKILL)
    await node.start()
    assert {one.sandbox for one in await node.snapshots()} == {claim.sandbox for claim in claims}
    for claim in claims:
        resumed = await node.resume(claim)
        assert (await node.run(resumed, "cat /root/file"))[1] == "kept\n"
        await node.release(resumed)
    assert await node.leaks() == 0


async def test_a_resume_may_fail_and_be_asked_for_again(node: Node) -> None:
    claim = await node.claim("runsc")
    await node.run(claim, "echo kept > /root/file")
    await node.pause(claim)
    for epoch in range(2, 5):
        resumed = await node.resume(claim, epoch=epoch)
        assert (await node.run(resumed, "cat /root/file; echo more >> /root/file"))[1] == "kept\n"
        await node.release(resumed)
    assert seen_in_kernel() == NOTHING


async def test_hooks_run_before_anything_else_after_a_resume_and_names_are_looked_up_anew(node: Node) -> None:
    claim = await node.claim("runsc")
    hook = "mkdir -p /etc/boxkeep/on-restore.d; cd /etc/boxkeep/on-restore.d"
    await node.run(claim, f"{hook}; echo '#!/bin/sh\ncat /run/boxkeep/generation >> /root/lives' > 10-note; chmod +x *")
    await node.run(claim, "echo '#!/bin/sh\nsleep 60' > /etc/boxkeep/on-restore.d/20-slow; chmod +x /etc/boxkeep/*/*")
    await node.pause(claim)
    resumed = await node.resume(claim)
    said = (await node.run(resumed, "cat /root/lives /etc/resolv.conf"))[1].splitlines()
    gateway = ".".join([*resumed.address.split(".")[:3], str(int(resumed.address.split(".")[3]) - 1)])
    assert said[:2] == ["2", f"nameserver {gateway}"]


async def test_who_is_connected_when_it_is_paused_does_not_keep_the_guest_from_going_on(node: Node) -> None:
    claim = await node.claim("runsc")
    others = GuestPool()
    watching = others.download(node.way_to(claim), {"op": "watch", "after": 0})
    await watching.__aenter__()
    await asyncio.gather(*(others.call(node.way_to(claim), {"op": "info"}) for _ in range(3)))
    await node.pause(claim)
    resumed = await node.resume(claim)
    assert (await node.run(resumed, "echo on"))[1] == "on\n"
    await others.close()


async def test_an_idle_pause_is_refused_while_something_runs(node: Node) -> None:
    claim = await node.claim("runsc")
    process, _ = await node.run(claim, "sleep 300", background=True)
    with pytest.raises(AssertionError, match="busy"):
        await node.pause(claim, if_idle=True)
    await node.run(claim, f"kill {process['pid']}")
    await node.guests.call(node.way_to(claim), {"op": "process.wait", "id": process["id"], "timeoutMs": 5000})
    assert (await node.pause(claim, if_idle=True)).keeps == "memory"


@pytest.mark.parametrize("damage", ["memory", "manifest", "missing"])
async def test_a_damaged_snapshot_is_refused_and_nothing_of_it_runs_but_its_files_can_be_had(
    node: Node, damage: str
) -> None:
    claim = await node.claim("runsc")
    await node.run(claim, "echo kept > /root/file")
    await node.run(claim, "sleep 300", background=True)
    await node.pause(claim)
    found = max((kept(node, claim) / "memory").iterdir(), key=lambda path: path.stat().st_size)
    if damage == "memory":
        with found.open("r+b") as file:
            file.seek(found.stat().st_size // 2)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
    elif damage == "missing":
        found.unlink()
    else:
        (kept(node, claim) / "manifest.json").write_text("{")
    with pytest.raises(AssertionError, match="unfit"):
        await node.resume(claim)
    if damage == "manifest":
        with pytest.raises(AssertionError, match="unfit"):
            await node.resume(claim, memory=False)
    assert seen_in_kernel() == NOTHING
    assert Claims.model_validate_json(await node.ask("GET", "/v1/claims")).claims == ()
    if damage != "manifest":
        from_files = await node.resume(claim, memory=False)
        names = "for one in /proc/[0-9]*/comm; do read name < $one; echo $name; done"
        assert (await node.run(from_files, "cat /root/file"))[1] == "kept\n"
        assert "sleep" not in (await node.run(from_files, names))[1].split()
        await node.release(from_files)
    assert await node.discard(claim) == 1
    assert await node.leaks() == 0


@DISKS
@BOTH
async def test_a_node_killed_in_the_middle_of_a_pause_brings_it_to_its_end(node: Node, isolation: str) -> None:
    chance = random.Random(7)
    for _ in range(4):
        claim = await node.claim(isolation)
        await node.run(claim, "echo acknowledged > /root/file")
        await node.run(claim, COUNTER, background=True)
        pausing = asyncio.ensure_future(node.pause(claim))
        await asyncio.sleep(chance.random() * 0.5)
        await node.stop(signal.SIGKILL)
        await asyncio.gather(pausing, return_exceptions=True)
        await node.start()
        snapshot = await node.pause(claim)
        assert snapshot.keeps == ("memory" if isolation == "runsc" else "files")
        resumed = await node.resume(claim)
        assert (await node.run(resumed, "cat /root/file"))[1] == "acknowledged\n"
        await node.release(resumed)
        assert await node.discard(claim) == 1
        assert seen_in_kernel() == NOTHING
        assert await node.leaks() == 0
    assert await node.snapshots() == ()


async def test_a_node_told_to_stop_in_the_middle_of_a_pause_finishes_it(node: Node) -> None:
    claim = await node.claim("runsc")
    pausing = asyncio.ensure_future(node.pause(claim))
    await asyncio.sleep(0.05)
    await node.stop(signal.SIGTERM)
    await asyncio.gather(pausing, return_exceptions=True)
    await node.start()
    assert (await node.pause(claim)).keeps == "memory"


def free(node: Node) -> int:
    """What the pool has left, once what was deleted has come back."""
    subprocess.run(["btrfs", "subvolume", "sync", pool(node)], check=True, capture_output=True, timeout=60)
    btrfs.commit(pool(node))
    disk = os.statvfs(pool(node))
    return disk.f_bavail * disk.f_frsize


async def test_space_is_shared_with_the_snapshot_and_comes_back(node: Node) -> None:
    assert node.process is not None
    inside = ["nsenter", "--mount", "--target", str(node.process.pid)]
    at = str(node.directory / "run" / INSTANCE / "pool")
    # What was deleted comes back after the next commit of its own, every 30 s by default.
    subprocess.run([*inside, "mount", "-o", "remount,commit=1", at], check=True, timeout=60)
    claim = await node.claim("runc")
    await node.run(claim, "dd if=/dev/urandom of=/root/data bs=1M count=100 2>/dev/null")
    assert (await node.pause(claim)).bytes >= 100 << 20
    paused = free(node)
    resumed = await node.resume(claim)
    assert free(node) > paused - (20 << 20)
    await node.release(resumed)
    await node.discard(claim)
    assert free(node) > paused + (80 << 20)


ROUNDS = 100 if os.environ.get("SOAK") else 30
COUNTER_IN_MEMORY = """
exec 3<>/tmp/asked
i=0
while read -r word <&3; do
  i=$((i+1)); echo $i > /tmp/new; mv /tmp/new /tmp/count; echo $i > /tmp/answer
done
"""


async def test_what_was_acknowledged_is_in_every_pause_and_checkpoint(node: Node) -> None:
    """A process counts in memory and in a file, each time it is asked; nothing that it answered is ever lost, through
    thirty pauses and checkpoints, or a hundred with `SOAK`."""
    claim = await node.claim("runsc")
    await node.run(claim, "mkfifo /tmp/asked /tmp/answer")
    await node.run(claim, COUNTER_IN_MEMORY, background=True)
    ask = "echo x > /tmp/asked; read answer < /tmp/answer; echo $answer $(cat /tmp/count)"
    taken: dict[str, int] = {}
    for number in range(1, ROUNDS + 1):
        assert (await node.run(claim, ask))[1] == f"{number} {number}\n"
        if number % 3 == 0:
            assert (await node.pause(claim)).keeps == "memory"
            resumed = await node.resume(claim)
            await node.discard(claim)
            claim = resumed
        else:
            checkpoint = new_id()
            assert (await node.checkpoint(claim, checkpoint, memory=number % 3 == 1)).keeps in ("memory", "files")
            taken[checkpoint] = number
        for old in list(taken)[:-4]:
            del taken[old]
            await node.forget(old)
    for checkpoint, number in taken.items():
        fork = await node.claim("runsc", checkpoint=checkpoint, fork=True)
        assert (await node.run(fork, "cat /tmp/count"))[1] == f"{number}\n"
        if number % 3 == 1:
            assert (await node.run(fork, ask))[1] == f"{number + 1} {number + 1}\n"
        await node.release(fork)
        await node.forget(checkpoint)
    await node.release(claim)
    assert await node.leaks() == 0
