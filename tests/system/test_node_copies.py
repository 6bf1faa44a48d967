"""Copies of snapshots by the node daemon: out, and in on a node that has nothing; changed, cut, killed, too large."""

import asyncio
import io
import os
import random
import shutil
import signal
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from boxkeep_server.model.ids import new_id
from boxkeep_server.model.images import read_layers
from boxkeep_server.model.node_api import Claim, Snapshot
from boxkeep_server.node import btrfs
from tests.system.node_process import DISKS, Node
from tests.system.test_node_pauses import BOTH, COUNTER, counted, passes, pool

pytest_plugins = ["tests.system.node_fixtures"]

SECRET = "a-word-that-nobody-may-read"
ODD = f"""
cd /workspace; echo {SECRET} > own; chmod 4711 own; ln own other; ln -s /nowhere link
rm -r /usr/bin; mkdir /usr/bin; echo new > /usr/bin/new; rm /etc/group
truncate -s 2G /workspace/sparse; echo end >> /workspace/sparse
dd if=/dev/urandom of=/workspace/large bs=1M count=9 2>/dev/null
echo x > "/workspace/$(printf '\\303\\274 \\n odd')"
"""
LOOK = """
cd /workspace; stat -c '%a %h %s %n' own other link sparse large; sha256sum large; cat own link 2>/dev/null
ls 2>/dev/null; echo *; cat /usr/bin/* /etc/group 2>&1; cat /etc/flavour /etc/plain 2>&1
"""


async def kept(node: Node, isolation: str, *, memory: bool = False) -> tuple[Claim, Snapshot, str]:
    """A machine with odd files, its checkpoint, and what is seen of the files."""
    claim = await node.claim(isolation)
    await node.run(claim, "mkdir -p /workspace")
    await node.run(claim, ODD)
    if memory:
        await node.run(claim, COUNTER, background=True)
        await passes(node, claim, 5)
    seen = (await node.run(claim, LOOK))[1]
    assert SECRET in seen
    return claim, await node.checkpoint(claim, new_id(), memory=memory), seen


async def forked(node: Node, snapshot: Snapshot) -> Claim:
    return await node.claim(snapshot.isolation, checkpoint=snapshot.name, fork=True)


async def in_pieces(copy: bytes, at: int) -> AsyncIterator[bytes]:
    """A copy that breaks off after so many bytes, without an end of its own."""
    yield copy[:at]
    raise ConnectionError("the sender is gone")


def places(node: Node) -> list[str]:
    return sorted(path.name for path in (pool(node) / "snapshots").iterdir())


@DISKS
@BOTH
async def test_a_node_that_has_nothing_goes_on_from_a_copy_and_the_image_under_it(node: Node, isolation: str) -> None:
    memory = isolation == "runsc"
    claim, snapshot, seen = await kept(node, isolation, memory=memory)
    before = await counted(node, claim) if memory else 0
    copy = await node.copy_of(snapshot.name)
    assert SECRET.encode() not in copy
    bases = await node.ask("GET", f"/v1/snapshots/{snapshot.name}/bases")
    assert snapshot.digest in bases.decode()
    image = await node.ask("GET", f"/v1/bases/image/{snapshot.digest}")
    layers = {one: await node.ask("GET", f"/v1/bases/layer/{one}") for one in read_layers(image).digests}
    await node.stop(signal.SIGKILL)
    await node.take_down()
    shutil.rmtree(node.directory / "lib")
    node.flavour = "another"
    await node.start()
    assert not await node.snapshots()
    assert await held(node, snapshot.digest) == b'{"held":false}'
    assert (await node.bring(snapshot.name, copy))[0] == 200
    refused = await claim_refused(node, snapshot)
    assert "unfit" in refused
    assert "image" in refused
    assert await put(node, f"/v1/bases/image/{'0' * 32}", image) == 409
    for digest, layer in layers.items():
        assert await put(node, f"/v1/bases/image/{snapshot.digest}", image) == 409, "its layers are not here"
        assert await put(node, f"/v1/bases/layer/{digest}", layer[: len(layer) // 2]) == 409
        assert await put(node, f"/v1/bases/layer/{digest}", layer) == 200
    assert await held(node, snapshot.digest) == b'{"held":false}'
    assert await held(node, "0" * 32) == b'{"held":false}'
    assert await put(node, f"/v1/bases/image/{snapshot.digest}", image) == 200
    assert await held(node, snapshot.digest) == b'{"held":true}'
    fork = await forked(node, snapshot)
    assert (await node.run(fork, LOOK))[1] == seen
    assert "plain" in seen
    if memory:
        assert await counted(node, fork) >= before - 200
        await passes(node, fork, await counted(node, fork))
    other = await node.claim(isolation)
    assert (await node.run(other, "cat /etc/flavour"))[1] == "another"
    await node.release(fork)
    assert await node.forget(snapshot.name) == 1
    assert await node.leaks() == 0


async def held(node: Node, digest: str) -> bytes:
    return await node.ask("POST", f"/v1/bases/image/{digest}")


async def put(node: Node, path: str, body: bytes) -> int:
    async with node.session.put(f"http://node{path}", data=io.BytesIO(body)) as response:
        return response.status


async def claim_refused(node: Node, snapshot: Snapshot) -> str:
    with pytest.raises(AssertionError) as refused:
        await forked(node, snapshot)
    return str(refused.value)


@BOTH
@DISKS
async def test_a_pool_goes_on_from_what_a_directory_has_kept_and_a_directory_refuses_a_pools(
    node: Node, isolation: str
) -> None:
    memory = isolation == "runsc"
    _, snapshot, seen = await kept(node, isolation, memory=memory)
    copy = await node.copy_of(snapshot.name)
    await node.stop(signal.SIGKILL)
    await node.take_down()
    shutil.rmtree(node.directory / "lib")
    before = node.environment["BOXKEEP_NODE__DISKS"]
    node.environment["BOXKEEP_NODE__DISKS"] = "directory" if before == "pool" else "pool"
    await node.start()
    status, words = await node.bring(snapshot.name, copy)
    if before == "pool":
        assert status == 409, words
        assert "a node whose disks are a directory cannot take in" in words
        assert not places(node)
        return
    assert status == 200, words
    fork = await forked(node, snapshot)
    assert (await node.run(fork, LOOK))[1] == seen
    if memory:
        await passes(node, fork, await counted(node, fork))


async def test_a_guest_is_brought_by_its_content(node: Node) -> None:
    _, snapshot, _ = await kept(node, "runsc", memory=True)
    bases = await node.ask("GET", f"/v1/snapshots/{snapshot.name}/bases")
    digest = bases.decode().split('"guest":"')[1][:64]
    guest = await node.ask("GET", f"/v1/bases/guest/{digest}")
    place = node.bundles / digest
    place.rename(aside := node.bundles / "aside")
    try:
        assert b"false" in await node.ask("POST", f"/v1/bases/guest/{digest}")
        assert await put(node, f"/v1/bases/guest/{digest}", guest[: len(guest) // 2]) == 409
        assert await put(node, f"/v1/bases/guest/{digest}", b"no archive") == 409
        assert not place.exists()
        assert await put(node, f"/v1/bases/guest/{digest}", guest) == 200
        assert [path.name for path in place.iterdir()]
        fork = await forked(node, snapshot)
        await passes(node, fork, await counted(node, fork))
        assert not list(node.bundles.glob(".coming-*"))
    finally:
        if place.exists():
            shutil.rmtree(aside)
        else:
            aside.rename(place)


async def outcome(call: asyncio.Task[Any]) -> object:
    """What came of a call whose node was killed: its answer, or None, for the client may wait for more for ever."""
    await asyncio.wait([call], timeout=5)
    call.cancel()
    (came,) = await asyncio.gather(call, return_exceptions=True)
    return None if isinstance(came, BaseException) else came


async def test_what_is_damaged_here_is_mended_by_its_copy_and_what_is_not_stays(node: Node) -> None:
    claim, snapshot, seen = await kept(node, "runsc", memory=True)
    copy = await node.copy_of(snapshot.name)
    directory = pool(node) / "snapshots" / snapshot.name
    inode = directory.stat().st_ino
    assert (await node.bring(snapshot.name, copy))[0] == 200
    assert directory.stat().st_ino == inode
    image = max((directory / "memory").iterdir(), key=lambda path: path.stat().st_size)
    with image.open("r+b") as file:
        file.seek(image.stat().st_size // 2)
        file.write(b"damage")
    assert "unfit" in await claim_refused(node, snapshot)
    assert (await node.bring(snapshot.name, copy))[0] == 200
    fork = await forked(node, snapshot)
    assert (await node.run(fork, LOOK))[1] == seen
    await passes(node, fork, await counted(node, claim) - 200)


async def test_a_copy_that_was_changed_cut_or_taken_for_another_leaves_nothing(node: Node) -> None:
    claim, snapshot, _ = await kept(node, "runc")
    copy = await node.copy_of(snapshot.name)
    await node.forget(snapshot.name)
    dice = random.Random(5)
    wrong = [copy[:at] for at in (0, 3, 40, len(copy) // 2, len(copy) - 1)]
    for _ in range(4):
        changed = bytearray(copy)
        changed[dice.randrange(len(copy))] ^= 1 << dice.randrange(8)
        wrong.append(bytes(changed))
    for one in (*wrong, copy + b"x"):
        status, words = await node.bring(snapshot.name, one)
        assert status == 409, words
        assert "unfit" in words
    assert (await node.bring(snapshot.name, copy, b"another key of 32 bytes, is it??"))[0] == 409
    status, words = await node.bring(new_id(), copy)
    assert (status, "it is another one" in words) == (500, True)
    assert places(node) == []
    assert (await node.bring(snapshot.name, copy))[0] == 200
    await forked(node, snapshot)
    await node.release(claim)


async def test_names_and_keys_that_are_none_are_refused(node: Node) -> None:
    for name in ("..", "%2e%2e", "a", "x" * 33, f"{new_id()}-1-root", f"{new_id()}-1-main%2f.."):
        async with node.session.get(f"http://node/v1/snapshots/{name}/copy", headers={}) as response:
            assert response.status in (400, 404), name
    for key in ("", "00", "g" * 64, "00" * 33):
        headers = {"Boxkeep-Copy-Key": key}
        async with node.session.put(f"http://node/v1/snapshots/{new_id()}/copy", data=b"", headers=headers) as response:
            assert response.status == 400
    for path in ("image/..%2f..%2fetc", "image/" + "A" * 32, "disk/" + "0" * 32, "guest/" + "0" * 32):
        for method in ("GET", "POST", "PUT"):
            async with node.session.request(method, f"http://node/v1/bases/{path}", data=b"") as response:
                assert response.status in (400, 404), (method, path)
    async with node.session.get(
        f"http://node/v1/snapshots/{new_id()}/copy", headers={"Boxkeep-Copy-Key": "00" * 32}
    ) as response:
        assert (response.status, "not there" in await response.text()) == (409, True)


async def test_what_is_removed_stops_to_be_on_its_way(node: Node) -> None:
    claim, snapshot, _ = await kept(node, "runc")
    copy = await node.copy_of(snapshot.name)
    headers = {"Boxkeep-Copy-Key": bytes(range(32)).hex()}
    async with node.session.get(f"http://node/v1/snapshots/{snapshot.name}/copy", headers=headers) as response:
        await response.content.readexactly(1000)
        assert await node.forget(snapshot.name) == 1
        with pytest.raises(aiohttp.ClientError):
            await response.read()
    assert places(node) == []

    coming = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield copy[: len(copy) // 2]
        while not places(node):
            await asyncio.sleep(0.01)
        coming.set()
        await asyncio.sleep(30)
        yield copy[len(copy) // 2 :]

    bringing = asyncio.create_task(node.bring(snapshot.name, slowly()))
    await coming.wait()
    assert (await node.bring(snapshot.name, copy))[0] == 503
    assert await node.leaks() == 0
    await node.forget(snapshot.name)
    assert places(node) == []
    with pytest.raises((aiohttp.ClientError, AssertionError)):
        assert (await bringing)[0] == 200
    await node.release(claim)


@DISKS
async def test_kills_on_the_way_out_and_in_leave_nothing_half(node: Node) -> None:
    claim, snapshot, seen = await kept(node, "runc")
    copy = await node.copy_of(snapshot.name)
    dice = random.Random(3)
    for _ in range(3):
        reading = asyncio.create_task(node.copy_of(snapshot.name))
        await asyncio.sleep(dice.uniform(0, 0.1))
        await node.stop(signal.SIGKILL)
        came = await outcome(reading)
        await node.start()
        if isinstance(came, bytes):  # then it is whole; how long it is depends on how its pieces came
            assert await node.forget(snapshot.name) == 1
            assert (await node.bring(snapshot.name, came))[0] == 200
    assert await node.forget(snapshot.name) == 1
    for _ in range(4):
        bringing = asyncio.create_task(node.bring(snapshot.name, copy))
        await asyncio.sleep(dice.uniform(0, 0.3))
        await node.stop(signal.SIGKILL)
        await outcome(bringing)
        await node.start()
        assert [one.name for one in await node.snapshots()] in ([], [snapshot.name])
    assert (await node.bring(snapshot.name, copy))[0] == 200
    fork = await forked(node, snapshot)
    assert (await node.run(fork, LOOK))[1] == seen
    await node.release(fork)
    await node.release(claim)


async def test_a_sender_that_goes_away_or_stalls_costs_no_place(node: Node) -> None:
    claim, snapshot, _ = await kept(node, "runc")
    copy = await node.copy_of(snapshot.name)
    await node.forget(snapshot.name)
    for at in (0, 100, len(copy) // 2):
        (answer,) = await asyncio.gather(node.bring(snapshot.name, in_pieces(copy, at)), return_exceptions=True)
        assert isinstance(answer, Exception) or answer[0] != 200
    async with asyncio.timeout(10):
        while places(node):
            await asyncio.sleep(0.05)
    assert (await node.bring(snapshot.name, copy))[0] == 200
    await node.release(claim)


@pytest.mark.parametrize("room_left", [100, 300])
async def test_a_copy_that_does_not_fit_is_refused_and_its_room_is_given_back(node: Node, room_left: int) -> None:
    claim = await node.claim("runc")
    await node.run(claim, "mkdir -p /workspace; dd if=/dev/urandom of=/workspace/large bs=1M count=200")
    snapshot = await node.checkpoint(claim, new_id())
    copy = await node.copy_of(snapshot.name)
    await node.forget(snapshot.name)
    filler = pool(node) / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room(node) - (room_left << 20))
    btrfs.commit(pool(node))
    status, words = await node.bring(snapshot.name, copy)
    assert status == 507, words
    assert places(node) == []
    filler.unlink()
    await node.stop(signal.SIGTERM)
    await node.start()
    assert (await node.bring(snapshot.name, copy))[0] == 200
    await node.release(claim)


def room(node: Node) -> int:
    found = os.statvfs(pool(node))
    return found.f_bavail * found.f_frsize
