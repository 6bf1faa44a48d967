"""What disks may hold, also where the kernel loses count of what they use."""

import errno
import os
import time
from pathlib import Path

import pytest

from boxkeep_server.model.ids import new_id
from boxkeep_server.node import btrfs
from boxkeep_server.node.disks import Disks
from tests.system.body.rooms import Room

LIMIT = 16 << 20
PIECE = 6 << 20
WITHIN_S = 30


@pytest.fixture
def disks(room: Room) -> Disks:
    return room.disks


def test_the_limits_are_tried(disks: Disks) -> None:
    assert disks.volume.limits_hold()
    assert disks.volume.limits_hold()
    assert not (disks.volume.mount / ".probe").exists()


def test_limits_hold_again_after_the_kernel_has_lost_count(disks: Disks) -> None:
    lose_count(disks)
    assert overrun(disks), "the kernel has not lost count, so this shows nothing"
    deadline = time.monotonic() + WITHIN_S
    while not disks.volume.mend_limits():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not overrun(disks)
    assert disks.volume.limits_hold()


def test_the_kernel_counts_on_when_a_large_disk_is_deleted(disks: Disks) -> None:
    assert threshold(disks).read_text().strip() == "8", "there are no deeper trees"


def overrun(disks: Disks) -> bool:
    """Whether a disk takes more than its limit, written in steps that are each on the device."""
    disk = disks.create(new_id(), LIMIT)
    try:
        for number in range(2 * LIMIT // PIECE):
            (disk / "upper" / f"{number}").write_bytes(os.urandom(PIECE))
            btrfs.commit(disks.volume.mount)
    except OSError as error:
        if error.errno != errno.EDQUOT:
            raise
        return False
    finally:
        disks.delete(disk.name)
    return True


def lose_count(disks: Disks) -> None:
    """Have the kernel stop counting, as it does by itself when what is deleted is deep enough."""
    before = threshold(disks).read_text()
    threshold(disks).write_text("0")
    shared = disks.create(new_id(), 1 << 30)
    for number in range(2000):
        (shared / "upper" / f"{number}").write_bytes(b"x" * 1000)
    btrfs.commit(disks.volume.mount)
    disks.keep(shared.name, disks.volume.mount / "twin")
    btrfs.delete_subvolume(disks.volume.mount, "twin")
    deadline = time.monotonic() + WITHIN_S
    while btrfs.quota_counts(disks.volume.mount):
        assert time.monotonic() < deadline, "the kernel goes on counting"
        btrfs.commit(disks.volume.mount)
        time.sleep(0.05)
    disks.delete(shared.name)
    threshold(disks).write_text(before)


def threshold(disks: Disks) -> Path:
    return btrfs.sysfs(disks.volume.mount) / "qgroups/drop_subtree_threshold"
