"""The guest and the host side together: files, both ways."""

import asyncio
import base64
import hashlib
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from boxkeep_server.guestwire import GuestAddress, GuestPool, GuestRefused
from boxkeep_server.guestwire.answers import Entry, entries_of, entry_of
from tests.guests import GuestProgram, eventually, resident

pytest_plugins = ["tests.guest_fixtures"]

MIB = 1024 * 1024
Guest = tuple[GuestPool, GuestAddress]


@pytest.fixture
def place(guest_program: GuestProgram, request: pytest.FixtureRequest) -> Path:
    path = guest_program.workspace / f"{abs(hash(request.node.name))}"
    path.mkdir()
    return path


async def bytes_of(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def write(guest: Guest, path: Path | bytes, *chunks: bytes, **fields: Any) -> Entry:
    answer = await guest[0].upload(guest[1], {"op": "file.write", **_path(path), **fields}, bytes_of(*chunks))
    return entry_of(answer)


async def read(guest: Guest, path: Path | bytes, **fields: Any) -> bytes:
    content = bytearray()
    request = {"op": "file.read", **_path(path), "offset": 0, "length": None, **fields}
    async with guest[0].download(guest[1], request) as download:
        async for frame in download:
            content += frame.payload
    return bytes(content)


async def listing(guest: Guest, path: Path | bytes) -> list[Entry]:
    entries: list[Entry] = []
    async with guest[0].download(guest[1], {"op": "file.list", **_path(path)}) as download:
        async for frame in download:
            entries += entries_of(frame.json())
    return entries


def _path(path: Path | bytes) -> dict[str, str]:
    if isinstance(path, Path):
        return {"path": str(path)}
    return {"pathBase64": base64.b64encode(path).decode()}


async def code_of(awaited: Any) -> str:
    with pytest.raises(GuestRefused) as refused:
        await awaited
    return refused.value.code


async def call(guest: Guest, **request: Any) -> dict[str, Any]:
    return await guest[0].call(guest[1], request)


async def test_what_is_written_is_read(guest: Guest, place: Path) -> None:
    data = os.urandom(700_001)
    entry = await write(
        guest, place / "deep" / "er" / "file.bin", data[:5], b"", data[5:], parents=True, size=len(data)
    )
    assert (entry.size, entry.type, entry.mode, entry.name) == (len(data), "file", 0o644, b"file.bin")
    assert await read(guest, place / "deep" / "er" / "file.bin") == data
    assert await read(guest, place / "deep" / "er" / "file.bin", offset=700_000, length=5) == data[-1:]
    assert await read(guest, place / "deep" / "er" / "file.bin", offset=10, length=20) == data[10:30]
    assert await read(guest, place / "deep" / "er" / "file.bin", offset=10**12) == b""


async def test_an_empty_file_is_a_file(guest: Guest, place: Path) -> None:
    assert (await write(guest, place / "empty")).size == 0
    assert await read(guest, place / "empty") == b""


async def test_a_replaced_file_keeps_mode_and_owner(guest: Guest, place: Path) -> None:
    path = place / "script"
    path.write_bytes(b"old")
    path.chmod(0o751)
    os.chown(path, 1, 2)
    entry = await write(guest, path, b"new")
    assert (entry.mode, entry.uid, entry.gid) == (0o751, 1, 2)
    entry = await write(guest, path, b"newer", mode=0o600, user="daemon")
    assert (entry.mode, entry.uid, entry.gid) == (0o600, 1, 1)


async def test_a_write_through_a_symlink_replaces_what_it_leads_to(guest: Guest, place: Path) -> None:
    (place / "real").write_bytes(b"old")
    (place / "link").symlink_to("real")
    await write(guest, place / "link", b"new")
    assert (place / "link").is_symlink()
    assert (place / "real").read_bytes() == b"new"
    (place / "loop").symlink_to("loop")
    assert await code_of(write(guest, place / "loop", b"x")) == "symlink"
    assert await code_of(read(guest, place / "loop")) == "symlink"


async def test_names_may_be_any_bytes(guest: Guest, place: Path) -> None:
    path = os.fsencode(place) + b"/\xff\xfe\n'\""
    await write(guest, path, b"odd")
    assert await read(guest, path) == b"odd"
    (entry,) = await listing(guest, place)
    assert (entry.name, entry.path) == (b"\xff\xfe\n'\"", path)
    assert entry_of(await call(guest, op="file.stat", path=os.fsdecode(path))).name == b"\xff\xfe\n'\""


async def test_errors_say_what_is_wrong(guest: Guest, place: Path) -> None:
    (place / "file").write_bytes(b"x")
    (place / "full").mkdir()
    (place / "full" / "inner").write_bytes(b"")
    assert await code_of(read(guest, place / "missing")) == "not_found"
    assert await code_of(read(guest, place)) == "is_directory"
    assert await code_of(read(guest, place / "file" / "below")) == "not_directory"
    assert await code_of(listing(guest, place / "file")) == "not_directory"
    assert await code_of(listing(guest, place / "missing")) == "not_found"
    assert await code_of(write(guest, place, b"")) == "is_directory"
    assert await code_of(write(guest, place / "file" / "below", b"")) == "not_directory"
    assert await code_of(write(guest, place / "no" / "parent", b"", parents=False)) == "not_found"
    assert await code_of(write(guest, place / "huge", b"", size=2**60)) == "no_space"
    assert await code_of(write(guest, place / "x", b"", user="nobody-such")) == "bad_user"
    assert await code_of(call(guest, op="file.mkdir", path=str(place / "file"), parents=True)) == "not_directory"
    assert await code_of(call(guest, op="file.mkdir", path=str(place / "full"), parents=False)) == "exists"
    assert await code_of(call(guest, op="file.remove", path=str(place / "full"))) == "exists"
    assert await code_of(call(guest, op="file.remove", path="/", recursive=True)) == "not_permitted"
    assert await code_of(call(guest, op="file.remove", path="/proc/self", recursive=True)) != "internal"
    assert (
        await code_of(call(guest, op="file.move", **{"from": str(place / "file"), "to": str(place / "full")}))
        == "exists"
    )
    assert await code_of(call(guest, op="file.chmod", path=str(place / "missing"), mode=0o600)) == "not_found"
    for path in ("relative", "/nul\0", "", 5, None):
        assert await code_of(call(guest, op="file.stat", path=path)) == "bad_request"
    assert await code_of(call(guest, op="file.stat", path="/" + "x" * 300)) == "bad_request"


async def test_fifos_and_devices_are_refused_at_once(guest: Guest, place: Path) -> None:
    os.mkfifo(place / "fifo")
    for path in (place / "fifo", Path("/dev/zero"), Path("/dev/tty")):
        assert await code_of(read(guest, path)) == "not_permitted"
        assert await code_of(write(guest, path, b"x")) == "not_permitted"
    assert stat.S_ISFIFO((place / "fifo").lstat().st_mode)
    assert entry_of(await call(guest, op="file.stat", path=str(place / "fifo"))).type == "other"


async def test_a_broken_upload_leaves_the_old_file_and_nothing_else(guest: Guest, place: Path) -> None:
    (place / "kept").write_bytes(b"old")

    async def breaking() -> AsyncIterator[bytes]:
        yield b"x" * 1_000_000
        raise ConnectionResetError("the client went away")

    with pytest.raises(ConnectionResetError):
        await guest[0].upload(guest[1], {"op": "file.write", "path": str(place / "kept")}, breaking())
    await eventually(lambda: [path.name for path in place.iterdir()] == ["kept"])
    assert (place / "kept").read_bytes() == b"old"


async def test_a_full_disk_is_told_in_the_middle_of_an_upload(
    guest: Guest, place: Path, guest_program: GuestProgram
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(4000):
            yield b"x" * 100_000

    with guest_program.file_system(place, "2m") as seen:
        upload = guest[0].upload(guest[1], {"op": "file.write", "path": str(place / "big")}, endless())
        assert await code_of(upload) == "no_space"
        await eventually(lambda: list(seen.iterdir()) == [])
        assert (await write(guest, place / "small", b"fits")).size == 4


async def test_many_entries_are_listed_whole(guest: Guest, place: Path) -> None:
    names = {f"entry-{n:05}" + "x" * 200 for n in range(5000)}
    for name in names:
        (place / name).touch()
    assert {entry.name.decode() for entry in await listing(guest, place)} == names


async def test_moving_and_removing(guest: Guest, place: Path) -> None:
    (place / "a").write_bytes(b"a")
    (place / "b").write_bytes(b"b")
    request = {"op": "file.move", "from": str(place / "a"), "to": str(place / "b")}
    assert entry_of(await call(guest, **request, overwrite=True)).path == os.fsencode(place / "b")
    assert (place / "b").read_bytes() == b"a"
    entry = entry_of(await call(guest, op="file.mkdir", path=str(place / "d" / "e"), mode=0o700, parents=True))
    assert (entry.type, entry.mode) == ("directory", 0o700)
    (place / "outside").mkdir()
    (place / "outside" / "stays").touch()
    (place / "d" / "e" / "link").symlink_to(place / "outside")
    deep = place / "d"
    for _ in range(300):
        deep = deep / "deeper"
        deep.mkdir()
        (deep / "file").touch()
    await call(guest, op="file.remove", path=str(place / "d"), recursive=True)
    assert not (place / "d").exists()
    assert (place / "outside" / "stays").exists()
    entry = entry_of(await call(guest, op="file.chmod", path=str(place / "b"), mode=0o4755))
    assert entry.mode == 0o4755


async def test_a_file_moves_to_another_file_system(guest: Guest, place: Path, guest_program: GuestProgram) -> None:
    (place / "mnt").mkdir()
    with guest_program.file_system(place / "mnt", "4m") as seen:
        (place / "file").write_bytes(b"moved" * 1000)
        (place / "file").chmod(0o640)
        os.chown(place / "file", 3, 4)
        request = {"op": "file.move", "from": str(place / "file"), "to": str(place / "mnt" / "file")}
        entry = entry_of(await call(guest, **request))
        assert (entry.size, entry.mode, entry.uid, entry.gid) == (5000, 0o640, 3, 4)
        assert not (place / "file").exists()
        assert (seen / "file").read_bytes() == b"moved" * 1000


async def test_two_gigabytes_pass_both_ways_at_constant_memory(
    guest: Guest, place: Path, guest_program: GuestProgram
) -> None:
    block, count = os.urandom(MIB), 2048

    async def blocks() -> AsyncIterator[bytes]:
        for _ in range(count):
            yield block

    request = {"op": "file.write", "path": str(place / "huge"), "size": count * MIB}
    await guest[0].upload(guest[1], request, blocks())
    total, digest = 0, hashlib.sha1(usedforsecurity=False)
    async with guest[0].download(guest[1], {"op": "file.read", "path": str(place / "huge"), "offset": 0}) as download:
        async for frame in download:
            total += len(frame.payload)
            digest.update(frame.payload)
    expected = hashlib.sha1(usedforsecurity=False)
    for _ in range(count):
        expected.update(block)
    assert (total, digest.digest()) == (count * MIB, expected.digest())
    assert resident(guest_program.pid) < 100 * MIB
    (place / "huge").unlink()


async def test_readers_see_the_old_file_or_the_new(guest: Guest, place: Path) -> None:
    path = place / "flip"
    await write(guest, path, b"0" * 300_000)

    async def flip() -> None:
        for n in range(1, 10):
            await write(guest, path, str(n).encode() * 300_000)

    async def look() -> None:
        while not flipping.done():
            assert len(set(await read(guest, path))) == 1

    flipping = asyncio.create_task(flip())
    await asyncio.gather(flipping, look())
