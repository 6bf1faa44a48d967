"""The pool of disks on a host whose own disk runs full, is small, or cannot set room aside."""

import errno
import logging
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from boxkeep_server.node import btrfs, syscalls
from boxkeep_server.node.btrfs_pool import BtrfsPool

MIB, GIB = 1 << 20, 1 << 30
MOST, AHEAD = 4 * GIB, 2 * GIB
FIRST = AHEAD + GIB


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Path]:
    """A small disk that is the host's."""
    image, place = tmp_path / "host.img", tmp_path / "host"
    with image.open("wb") as file:
        file.truncate(8 * GIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)
    image.unlink()


@pytest.fixture
def pool(host: Path, tmp_path: Path) -> Iterator[BtrfsPool]:
    made = pool_on(host, tmp_path)
    made.open()
    yield made
    made.close()


def pool_on(host: Path, tmp_path: Path) -> BtrfsPool:
    return BtrfsPool(host / "pool.img", tmp_path / "pool", MOST, AHEAD)


def fill(place: Path, but: int = 0) -> Path:
    """A file that takes what a file system has left but for some bytes, and what it keeps for root too."""
    filler = place / "filler"
    with filler.open("wb") as file:
        for step in (64 * MIB, MIB, 4096):
            while os.statvfs(place).f_bfree * 4096 >= but + step:
                with suppress(OSError):
                    syscalls.allocate(file.fileno(), filler.stat().st_size, step)
                    continue
                break
    return filler


def size(pool: BtrfsPool) -> int:
    found = os.statvfs(pool.mount)
    return found.f_blocks * found.f_frsize


def write(pool: BtrfsPool, name: str, mib: int) -> bytes:
    """Data that does not compress, on the device when this returns; its first bytes."""
    with (pool.mount / name).open("wb") as file:
        first = os.urandom(MIB)
        file.write(first)
        for _ in range(mib - 1):
            file.write(os.urandom(MIB))
        file.flush()
        os.fsync(file.fileno())
    btrfs.commit(pool.mount)
    return first


def test_a_host_whose_disk_is_full_takes_nothing_from_the_pool(host: Path, pool: BtrfsPool, tmp_path: Path) -> None:
    kept = write(pool, "before", 10)
    filler = fill(host)
    assert os.statvfs(host).f_bfree <= 4096, "what ext4 keeps for itself"
    written = write(pool, "while-it-is-full", 600)
    pool.make_room()
    assert size(pool) == FIRST
    (pool.mount / "before").unlink()
    btrfs.commit(pool.mount)
    again = write(pool, "over-what-was-freed", 600)
    filler.unlink()
    pool.make_room()
    assert size(pool) > FIRST
    pool.close()
    pool.open()
    assert (pool.mount / "while-it-is-full").read_bytes()[:MIB] == written
    assert (pool.mount / "over-what-was-freed").read_bytes()[:MIB] == again
    assert kept


def test_it_grows_ahead_of_what_is_written_and_to_its_most(host: Path, pool: BtrfsPool) -> None:
    sizes = [size(pool)]
    with (pool.mount / "file").open("wb") as file:
        for number in range(1, 6):
            with suppress(OSError):
                syscalls.allocate(file.fileno(), 0, number * 900 * MIB)
            pool.make_room()
            sizes.append(size(pool))
    assert sizes[0] == FIRST
    assert sizes == sorted(sizes)
    assert sizes[-1] == MOST
    assert (host / "pool.img").stat().st_blocks * 512 >= MOST
    pool.make_room()
    assert size(pool) == MOST


def test_it_leaves_the_host_some_room(host: Path, pool: BtrfsPool) -> None:
    fill(host, but=2 * GIB)
    left = os.statvfs(host)
    with (pool.mount / "file").open("wb") as file:
        syscalls.allocate(file.fileno(), 0, 1500 * MIB)
    pool.make_room()
    assert FIRST < size(pool) < FIRST + left.f_bavail * left.f_frsize
    assert os.statvfs(host).f_bavail * 4096 >= GIB - 8 * MIB
    size_before = size(pool)
    pool.make_room()
    assert size(pool) == size_before


def test_what_could_not_take_its_room_does_so_the_next_time(
    pool: BtrfsPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def busy(_: Path) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    with (pool.mount / "file").open("wb") as file:
        syscalls.allocate(file.fileno(), 0, 1500 * MIB)
    with monkeypatch.context() as at_work:
        at_work.setattr(btrfs, "grow", busy)
        pool.make_room()
    assert "does not grow now" in caplog.text
    assert size(pool) == FIRST
    pool.make_room()
    assert size(pool) == MOST


def test_what_is_deleted_in_it_stays_set_aside(host: Path, pool: BtrfsPool) -> None:
    before = (host / "pool.img").stat().st_blocks
    write(pool, "file", 200)
    (pool.mount / "file").unlink()
    btrfs.commit(pool.mount)
    subprocess.run(["fstrim", pool.mount], check=False, capture_output=True)
    pool.close()
    pool.open()
    assert (host / "pool.img").stat().st_blocks >= before


def test_one_that_was_made_without_room_gets_it_where_there_is_some(
    host: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = host / "pool.img"
    with file.open("wb") as made:
        made.truncate(3 * GIB)
    subprocess.run(["mkfs.btrfs", "-q", file], check=True)
    filler = fill(host, but=GIB)
    pool = pool_on(host, tmp_path)
    with caplog.at_level(logging.WARNING):
        pool.open()
    assert "if that runs full, the disks of all sandboxes fail" in caplog.text
    pool.close()
    filler.unlink()
    pool.open()
    assert file.stat().st_blocks * 512 >= 3 * GIB
    pool.close()


def test_where_no_room_can_be_set_aside_it_grows_without(
    host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def cannot(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(syscalls, "allocate", cannot)
    pool = pool_on(host, tmp_path)
    with caplog.at_level(logging.WARNING):
        pool.open()
        pool.make_room()
    assert caplog.text.count("no room can be set aside") == 1
    assert size(pool) == FIRST
    write(pool, "file", 10)
    pool.close()


def test_a_host_without_room_for_one_says_so(host: Path, tmp_path: Path) -> None:
    fill(host, but=500 * MIB)
    with pytest.raises(OSError, match="No space left"):
        pool_on(host, tmp_path).open()
    assert not (host / "pool.img").exists()
