"""Every store of blobs keeps the same promises: a directory, and a bucket of a real S3-compatible server."""

import asyncio
import hashlib
import resource
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from boxkeep_server.blobs.interface import SMALL, BlobDamaged, BlobExists, BlobNotFound, Blobs, Digest
from boxkeep_server.blobs.local import LocalBlobs
from boxkeep_server.blobs.s3 import Bucket, S3Blobs
from boxkeep_server.model.errors import Invalid, TimedOut, Unavailable
from boxkeep_server.model.ids import new_id
from tests.instances import free_port

ORG = "a" * 32


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    """A real S3-compatible server on loopback."""
    server = ThreadedMotoServer("127.0.0.1", free_port())
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def bucket_at(endpoint: str, timeout_s: float = 30.0) -> Bucket:
    """A bucket of this test's own."""
    return Bucket("kept", "boxes", endpoint, "us-east-1", True, "key", "secret", timeout_s)


@pytest.fixture(params=["directory", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    """Each kind of store."""
    if request.param == "directory":
        return LocalBlobs(tmp_path / "blobs")
    endpoint = request.getfixturevalue("s3_endpoint")
    make_bucket(endpoint)
    return S3Blobs(bucket_at(endpoint))


def make_bucket(endpoint: str) -> None:
    """Make the bucket, which may be there."""
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
    )
    client.create_bucket(Bucket="kept")


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    """These bytes."""
    for one in data:
        yield one


async def whole(blobs: Blobs, key: str, offset: int = 0, length: int | None = None) -> bytes:
    """What lies under a key."""
    async with aclosing(await blobs.get(key, offset, length)) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def test_what_was_put_is_read_again_whole_and_in_parts(blobs: Blobs) -> None:
    key = f"{ORG}/{new_id()}"
    written = await blobs.put(key, pieces(b"hello ", b"world"))
    assert (written.size, written.sha256) == (11, hashlib.sha256(b"hello world").hexdigest())
    assert await whole(blobs, key) == b"hello world"
    assert await whole(blobs, key, 6) == b"world"
    assert await whole(blobs, key, 2, 3) == b"llo"
    assert await whole(blobs, key, 2, 0) == b""
    found = await blobs.stat(key)
    assert found is not None
    assert (found.key, found.size) == (key, 11)


async def test_an_empty_blob_is_one(blobs: Blobs) -> None:
    key = f"{ORG}/{new_id()}"
    assert (await blobs.put(key, pieces())).size == 0
    assert await whole(blobs, key) == b""


async def test_bytes_that_are_not_the_promised_ones_are_not_put(blobs: Blobs) -> None:
    key = f"{ORG}/{new_id()}"
    with pytest.raises(BlobDamaged):
        await blobs.put(key, pieces(b"other"), sha256=hashlib.sha256(b"these").hexdigest())
    assert await blobs.stat(key) is None


async def test_a_source_that_breaks_off_leaves_nothing_and_is_told_as_it_is(blobs: Blobs) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 1000
        raise Invalid("the source broke off")

    key = f"{ORG}/{new_id()}"
    with pytest.raises(Invalid, match="the source broke off"):
        await blobs.put(key, broken())
    assert await blobs.stat(key) is None
    assert not (await blobs.list(key)).items


async def test_what_is_not_there_is_not_found_and_deleted_quietly(blobs: Blobs) -> None:
    key = f"{ORG}/{new_id()}"
    with pytest.raises(BlobNotFound):
        await whole(blobs, key)
    with pytest.raises(BlobNotFound):
        await whole(blobs, key, 0, 0)
    assert await blobs.stat(key) is None
    await blobs.delete(key)
    await blobs.put(key, pieces(b"x"))
    await blobs.delete(key)
    await blobs.delete(key)
    assert await blobs.stat(key) is None


async def test_of_many_puts_if_absent_one_wins(blobs: Blobs) -> None:
    key = f"{ORG}/{new_id()}"
    puts = [blobs.put(key, pieces(bytes([n])), absent=True) for n in range(8)]
    ends = await asyncio.gather(*puts, return_exceptions=True)
    won = [n for n, end in enumerate(ends) if not isinstance(end, BaseException)]
    assert len(won) == 1
    assert all(isinstance(end, BlobExists) for n, end in enumerate(ends) if n not in won)
    assert await whole(blobs, key) == bytes(won)


async def test_a_large_put_if_absent_is_refused_and_not_faked(blobs: Blobs) -> None:
    with pytest.raises(ValueError, match="only if absent"):
        await blobs.put(f"{ORG}/{new_id()}", pieces(bytes(SMALL), b"x"), absent=True)


async def test_a_put_replaces_and_a_reader_who_had_begun_sees_no_mixture(blobs: Blobs) -> None:
    key = f"{ORG}/{new_id()}"
    await blobs.put(key, pieces(b"a" * 300_000))
    async with aclosing(await blobs.get(key)) as chunks:
        first = await anext(chunks)
        await blobs.put(key, pieces(b"b" * 300_000))
        rest = b"".join([chunk async for chunk in chunks])
    assert set(first + rest) == set(b"a")
    assert set(await whole(blobs, key)) == set(b"b")


@pytest.mark.parametrize("name", ["a b", "ü/ñ", "100%=?#&+", "back\\slash", "line\nfeed", '"<>|*', "\udcff", "=41"])
async def test_keys_have_any_characters(blobs: Blobs, name: str) -> None:
    key = f"{ORG}/{new_id()}/{name}"
    await blobs.put(key, pieces(name.encode("utf-8", "surrogateescape")))
    assert await whole(blobs, key) == name.encode("utf-8", "surrogateescape")
    found = await blobs.stat(key)
    assert found is not None
    assert found.key == key
    assert [blob.key for blob in (await blobs.list(key.rpartition("/")[0])).items] == [key]


@pytest.mark.parametrize("key", ["", "/a", "a//b", "a/../b", "./a", "a/", "x" * 241])
async def test_what_is_no_key_is_refused(blobs: Blobs, key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        await blobs.put(key, pieces(b"x"))


async def test_lists_come_in_pages_and_by_whole_segments(blobs: Blobs) -> None:
    below = f"{ORG}/{new_id()}"
    keys = {f"{below}/{n}" for n in range(5)}
    for key in (*keys, f"{below}0/other"):
        await blobs.put(key, pieces(b"x"))
    seen: list[str] = []
    cursor = None
    for _ in range(10):
        page = await blobs.list(below, cursor, 2)
        assert len(page.items) <= 2
        seen += [blob.key for blob in page.items]
        cursor = page.cursor
        if cursor is None:
            break
    assert len(seen) == 5
    assert set(seen) == keys


async def test_200_mb_pass_at_constant_memory(tmp_path: Path, s3_endpoint: str) -> None:
    blobs = LocalBlobs(tmp_path)
    piece = bytes(1 << 20)

    async def source() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield piece

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    written = await blobs.put(f"{ORG}/large", source())
    async with aclosing(await blobs.get(f"{ORG}/large")) as chunks:
        read = sum([len(chunk) async for chunk in chunks])
    assert written.size == read == 200 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


async def test_s3_takes_what_needs_many_parts(s3_endpoint: str) -> None:
    make_bucket(s3_endpoint)
    blobs = S3Blobs(bucket_at(s3_endpoint))
    written = await blobs.put(f"{ORG}/parts", pieces(*[bytes([n]) * (1 << 20) for n in range(40)]))
    async with aclosing(await blobs.get(f"{ORG}/parts")) as chunks:
        read = Digest(chunks, written.sha256, 40 << 20)
        async for _ in read:
            pass
    assert read.written == written


async def test_a_damaged_blob_is_noticed_at_its_end(blobs: Blobs) -> None:
    key = f"{ORG}/{new_id()}"
    written = await blobs.put(key, pieces(b"these bytes"))
    await blobs.put(key, pieces(b"those bytes"))
    async with aclosing(await blobs.get(key)) as chunks:
        with pytest.raises(BlobDamaged):
            async for _ in Digest(chunks, written.sha256, written.size):
                pass


async def test_a_file_that_is_cut_is_noticed(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    await blobs.put(f"{ORG}/cut", pieces(b"x" * 1_000_000))
    async with aclosing(await blobs.get(f"{ORG}/cut")) as chunks:
        await anext(chunks)
        [file] = [path for path in tmp_path.rglob("*") if path.is_file()]
        with file.open("r+b") as opened:
            opened.truncate(300_000)
        with pytest.raises(BlobDamaged):
            async for _ in chunks:
                pass


async def test_what_a_crash_left_half_written_is_seen_by_nobody_and_removed(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    (tmp_path / "tmp" / "half").write_bytes(b"half")
    assert not (await blobs.list("")).items
    LocalBlobs(tmp_path)
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_a_bucket_that_is_away_is_said_to_be() -> None:
    blobs = S3Blobs(bucket_at(f"http://127.0.0.1:{free_port()}", 1.0))
    async with asyncio.timeout(30):
        with pytest.raises((Unavailable, TimedOut)):
            await blobs.put(f"{ORG}/x", pieces(b"x"))
        with pytest.raises((Unavailable, TimedOut)):
            await whole(blobs, f"{ORG}/x")
        with pytest.raises((Unavailable, TimedOut)):
            await blobs.list(ORG)


async def test_a_bucket_that_never_answers_ends_within_its_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        held: list[socket.socket] = []

        def accept() -> None:
            try:
                while True:
                    held.append(silent.accept()[0])
            except OSError:
                return

        thread = threading.Thread(target=accept)
        thread.start()
        blobs = S3Blobs(bucket_at(f"http://127.0.0.1:{silent.getsockname()[1]}", 0.5))
        try:
            async with asyncio.timeout(30):
                with pytest.raises((Unavailable, TimedOut)):
                    await blobs.put(f"{ORG}/x", pieces(b"x"))
                with pytest.raises((Unavailable, TimedOut)):
                    await blobs.stat(f"{ORG}/x")
        finally:
            silent.shutdown(socket.SHUT_RDWR)
            thread.join()
            for one in held:
                one.close()


async def test_a_bucket_signs_urls_and_a_directory_has_none(tmp_path: Path, s3_endpoint: str) -> None:
    assert await LocalBlobs(tmp_path).presign(f"{ORG}/x", 60) is None
    url = await S3Blobs(bucket_at(s3_endpoint)).presign(f"{ORG}/x", 60)
    assert url is not None
    assert url.startswith(f"{s3_endpoint}/kept/boxes/{ORG}/x?")


async def test_a_bucket_s_secret_is_in_no_description_of_it(s3_endpoint: str) -> None:
    assert "secret" not in repr(bucket_at(s3_endpoint)).replace("secret_access_key", "")
