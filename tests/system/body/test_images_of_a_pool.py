"""Images in a pool: taken up whole, and let go of when nothing needs them."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from boxkeep_server.node import btrfs
from boxkeep_server.node.images import UNUSED_S, Images
from tests.system.body.rooms import Room

OLD, NEW = "0" * 32, "1" * 32


@pytest.fixture
def pool(room: Room) -> Iterator[Path]:
    made = room.disks.pool / "other-images"
    made.mkdir()
    yield made
    for image in made.iterdir():
        btrfs.delete_subvolume(made, image.name)
    made.rmdir()


def publish(archives: Path, digest: str) -> None:
    tree = archives / "tree"
    tree.mkdir(exist_ok=True)
    (tree / "digest").write_text(digest)
    subprocess.run(["tar", "-C", tree, "--zstd", "-cf", archives / f"{digest}.tar.zst", "."], check=True)
    (archives / "base.json").write_text(json.dumps({"name": "base", "digest": digest}))


def names(pool: Path) -> set[str]:
    return {entry.name for entry in pool.iterdir()}


def test_an_image_goes_when_neither_it_is_current_nor_a_machine_has_it(pool: Path, tmp_path: Path) -> None:
    images = Images(pool, tmp_path)
    publish(tmp_path, OLD)
    assert images.refresh()
    assert images.remove_unused(set(), 0) == images.remove_unused(set(), 2 * UNUSED_S) == 0
    publish(tmp_path, NEW)
    assert images.refresh()
    assert (images.all()["base"].root / "digest").read_text() == NEW
    assert images.remove_unused({OLD}, 3 * UNUSED_S) == 0
    assert images.remove_unused(set(), 5 * UNUSED_S) == 0, "a machine may be on its way"
    assert images.remove_unused({OLD}, 6 * UNUSED_S) == 0
    assert images.remove_unused(set(), 7 * UNUSED_S) == 0, "it was used in between"
    assert images.remove_unused(set(), 8 * UNUSED_S) == 1
    assert names(pool) == {NEW}


def test_nothing_goes_while_the_new_version_is_not_in_place(pool: Path, tmp_path: Path) -> None:
    images = Images(pool, tmp_path)
    publish(tmp_path, OLD)
    images.refresh()
    publish(tmp_path, NEW)
    (tmp_path / f"{NEW}.tar.zst").write_bytes(b"half")
    with pytest.raises(subprocess.CalledProcessError):
        images.refresh()
    assert images.remove_unused(set(), 0) == images.remove_unused(set(), 2 * UNUSED_S) == 0
    assert OLD in names(pool)
    fresh = Images(pool, tmp_path)
    assert fresh.remove_unused(set(), 0) == fresh.remove_unused(set(), 2 * UNUSED_S) == 0
