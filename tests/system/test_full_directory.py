"""A disk that a sandbox has filled for all, on a node whose disks are a directory: it answers, refuses, and goes on."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from boxkeep_server.model.ids import new_id
from boxkeep_server.model.node_api import Claim
from boxkeep_server.node import durable
from tests.system.node_process import Node, end, now_ms, path_of
from tests.system.test_node_pauses import BOTH

pytest_plugins = ["tests.system.node_fixtures"]

FILL = "mkdir -p /workspace; for size in 1M 4k 1; do dd if=/dev/zero of=/workspace/$size bs=$size; done 2>&1"


@contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """A file system of 768 MiB at `place`, all of which root may fill."""
    image = place.with_name("small.img")
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(768 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    place.chmod(0o711)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


@pytest_asyncio.fixture
async def node(directory: Path, bundles: Path) -> AsyncIterator[Node]:
    with small_disk(directory / "lib"):
        one = Node(directory, bundles, {}, disks="directory")
        try:
            await one.start()
            yield one
        finally:
            await end(one)


async def refused(node: Node, method: str, path: str, body: dict[str, Any]) -> str:
    """The code with which a call is refused."""
    async with node.session.request(method, f"http://node{path}", json=body) as response:
        assert response.status != 200
        code: str = (await response.json())["code"]
        return code


def claim_of(isolation: str) -> dict[str, Any]:
    wanted = {"sandbox": new_id(), "epoch": 1, "image": "base", "isolation": isolation, "hostname": "late"}
    return {**wanted, "notAfter": now_ms() + 600_000}


@BOTH
async def test_a_disk_that_a_sandbox_has_filled_leaves_a_node_that_answers_and_goes_on(
    node: Node, isolation: str
) -> None:
    greedy, other, dies, expires = [await node.claim(isolation) for _ in range(4)]
    await node.run(other, "mkdir -p /workspace; echo mine > /workspace/own")
    assert "No space left on device" in (await node.run(greedy, FILL))[1]
    assert await refused(node, "POST", "/v1/claims", claim_of(isolation)) == "no_room"
    assert not json.loads(await node.ask("GET", "/v1/node"))["admitting"]
    for path, body in (("checkpoints", {"checkpoint": new_id()}), ("pause", {})):
        assert await refused(node, "POST", f"{path_of(other)}/{path}", body) == "no_space"
        assert (await node.run(other, "cat /workspace/own"))[1] == "mine\n"
    os.kill(int(str(node.record(dies)["pid"])), signal.SIGKILL)
    assert (await node.death_of(dies)).reason == "exited"
    await node.ask("PATCH", path_of(expires), {"notAfter": now_ms()})
    assert (await node.death_of(expires)).reason == "expired"
    await restarted(node, greedy, other)
    assert (await node.run(other, "cat /workspace/own"))[1] == "mine\n"
    assert (await node.get(expires)).reason == "expired"
    assert "No space left on device" in (await node.run(greedy, FILL))[1]
    assert await refused(node, "POST", "/v1/claims", claim_of(isolation)) == "no_room"
    for claim in (dies, expires, greedy):
        await node.release(claim)
    late = await node.claim(isolation)
    assert (await node.run(late, "echo there"))[1] == "there\n"
    checkpoint = new_id()
    assert (await node.checkpoint(other, checkpoint)).checkpoint == checkpoint
    assert await node.leaks() == 0


async def restarted(node: Node, *claims: Claim) -> None:
    await node.stop(signal.SIGKILL)
    for claim in claims:
        node.guests.forget(node.way_to(claim))
    await node.start()


def test_a_small_file_is_changed_on_a_full_disk_or_stays_as_it_was(directory: Path) -> None:
    with small_disk(directory / "lib"):
        file, filler = directory / "lib/file.json", directory / "lib/filler"
        durable.replace(file, json.dumps({"of": "old", "long": "x" * 100}).encode())
        for words in ("new", "longer than it was, " * 20, ""):
            while more_fits(filler):
                pass
            durable.replace(file, json.dumps({"of": words}).encode())
            assert json.loads(file.read_bytes()) == {"of": words}
        while more_fits(filler):
            pass
        for write in (durable.replace, durable.append):
            with pytest.raises(OSError, match="No space left on device"):
                write(file.with_name("file.json" if write is durable.replace else "journal"), b"y" * 5000)
        assert json.loads(file.read_bytes()) == {"of": ""}


def more_fits(filler: Path) -> bool:
    """Append to a file until its disk is full; whether there was room for anything."""
    written = 0
    with filler.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while taken := file.write(b"\1" * size):
                    written += taken
        os.fsync(file.fileno())
    return written > 0
