"""Images on each kind of volume: taken up whole, each over its parent, and let go of when nothing needs them."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from boxkeep_server.model.images import Layers
from boxkeep_server.node import btrfs
from boxkeep_server.node.images import UNUSED_S, Images, archive_of
from boxkeep_server.node.layers import BadLayer
from boxkeep_server.node.plain_directory import PlainDirectory
from boxkeep_server.node.volumes import Trees
from tests.layered import add_layer, publish
from tests.system.body.rooms import Room


@pytest.fixture(params=["pool", "directory"])
def trees(request: pytest.FixtureRequest) -> Trees:
    if request.param == "pool":
        volume: Trees = request.getfixturevalue("room").disks.volume
        return volume
    return PlainDirectory(request.getfixturevalue("tmp_path"), request.getfixturevalue("tmp_path"))


@pytest.fixture
def pool(room: Room, trees: Trees, tmp_path: Path) -> Iterator[Path]:
    """Where the images lie."""
    top = room.disks.volume.mount if trees is room.disks.volume else tmp_path
    made = top / "other-images"
    made.mkdir()
    yield made
    for image in made.iterdir():
        trees.remove(image)
    made.rmdir()


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    made = tmp_path / "archives"
    made.mkdir()
    return made


def of_one(archives: Path, word: str) -> Layers:
    return publish(archives, "base", Layers((add_layer(archives, lambda tree: (tree / "word").write_text(word)),)))


def names(pool: Path) -> set[str]:
    return {entry.name for entry in pool.iterdir()}


def lying(*images: Layers) -> set[str]:
    """What is in a pool that holds these images."""
    layers = {f".layer-{digest}" for image in images for digest in image.digests}
    return layers | {one.digest for image in images for one in image.line}


def test_an_image_goes_when_neither_it_is_current_nor_a_machine_has_it(
    trees: Trees, pool: Path, archives: Path
) -> None:
    images = Images(trees, pool, archives)
    old = of_one(archives, "old")
    assert images.refresh()
    assert images.remove_unused(set(), 0) == images.remove_unused(set(), 2 * UNUSED_S) == 0
    new = of_one(archives, "new")
    assert images.refresh()
    assert (images.all()["base"].root / "word").read_text() == "new"
    assert images.remove_unused({old.digest}, 3 * UNUSED_S) == 0
    assert images.remove_unused(set(), 5 * UNUSED_S) == 0, "a machine may be on its way"
    assert images.remove_unused({old.digest}, 6 * UNUSED_S) == 0
    assert images.remove_unused(set(), 7 * UNUSED_S) == 0, "it was used in between"
    assert names(pool) == lying(old, new)
    assert images.remove_unused(set(), 8 * UNUSED_S) == 1
    assert names(pool) == lying(new)


def test_nothing_goes_while_the_new_version_is_not_in_place(trees: Trees, pool: Path, archives: Path) -> None:
    images = Images(trees, pool, archives)
    old = of_one(archives, "old")
    images.refresh()
    new = of_one(archives, "new")
    archive_of(archives, new.digests[0]).write_bytes(b"half")
    with pytest.raises(subprocess.CalledProcessError):
        images.refresh()
    assert images.remove_unused(set(), 0) == images.remove_unused(set(), 2 * UNUSED_S) == 0
    assert lying(old) <= names(pool)
    fresh = Images(trees, pool, archives)
    assert fresh.remove_unused(set(), 0) == fresh.remove_unused(set(), 2 * UNUSED_S) == 0


def lower(tree: Path) -> None:
    for name in ("kept/a", "emptied/a", "turned/deep/a", "gone/deep/a"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(os.urandom(1 << 20))
    (tree / "file").write_text("old")
    (tree / "link").symlink_to("/nowhere")


def upper(tree: Path) -> None:
    (tree / "emptied").mkdir(mode=0o711)
    (tree / "emptied/b").write_text("b")
    (tree / "turned").write_text("a file now")
    (tree / "file").symlink_to("kept/a")
    (tree / "link").mkdir()


HIDDEN = [b"emptied", b"gone", b"turned", b"link"]


def test_a_child_is_its_parent_with_the_difference_and_shares_the_space(
    trees: Trees, pool: Path, archives: Path
) -> None:
    first = add_layer(archives, lower)
    publish(archives, "base", Layers((first,)))
    image = publish(archives, "base-more", Layers((first, add_layer(archives, upper, HIDDEN))))
    images = Images(trees, pool, archives)
    images.refresh()
    tree = images.all()["base-more"].root
    assert sorted(os.listdir(tree)) == ["emptied", "file", "kept", "link", "turned"]
    assert sorted(os.listdir(tree / "emptied")) == ["b"]
    assert (tree / "emptied").stat().st_mode & 0o777 == 0o711
    assert (tree / "turned").read_text() == "a file now"
    assert (tree / "file").readlink() == Path("kept/a")
    assert (tree / "link").is_dir()
    assert not (tree / "link").is_symlink()
    below = pool / Layers((first,)).digest
    assert (below / "file").read_text() == "old"
    assert sorted(os.listdir(below)) == ["emptied", "file", "gone", "kept", "link", "turned"]
    assert exclusive(trees, below, tree) < 64 << 10
    assert images.remove_unused({image.digest}, 0) == 0
    assert names(pool) == lying(image)


def exclusive(trees: Trees, below: Path, tree: Path) -> int:
    """How many bytes a tree takes that the one below it does not."""
    if isinstance(trees, PlainDirectory):
        counts_each_once = ["du", "--summarize", "--block-size=1", below, tree]
        told = subprocess.run(counts_each_once, check=True, capture_output=True, text=True)
        return int(told.stdout.splitlines()[1].split()[0])
    btrfs.commit(tree)
    told = subprocess.run(
        ["btrfs", "filesystem", "du", "-s", "--raw", tree], check=True, capture_output=True, text=True
    )
    total, alone = (int(word) for word in told.stdout.splitlines()[1].split()[:2])
    assert total >= 1 << 20
    return alone


def test_what_was_cut_off_half_way_is_made_anew(trees: Trees, pool: Path, archives: Path) -> None:
    image = publish(archives, "base", Layers((add_layer(archives, lower), add_layer(archives, upper, HIDDEN))))
    trees.create(pool / ".half-left")
    (pool / ".half-left/rest").touch()
    Images(trees, pool, archives).refresh()
    assert names(pool) == lying(image)
    trees.remove(pool / image.digest)
    trees.create(pool / ".half-more")
    Images(trees, pool, archives).refresh()
    assert names(pool) == lying(image)


@pytest.mark.parametrize("attack", ["a file through a link", "a removal through a link", "a removal upwards", "a tree"])
def test_a_hostile_layer_reaches_nothing_beside_its_image(
    trees: Trees, pool: Path, archives: Path, tmp_path: Path, attack: str
) -> None:
    aside = tmp_path / "aside"
    aside.mkdir()
    (aside / "precious").write_text("precious")
    first = add_layer(archives, lambda tree: (tree / "way").symlink_to(aside))

    def fill(tree: Path) -> None:
        if attack == "a file through a link":
            (tree / "way").mkdir()
            (tree / "way/precious").write_text("overwritten")
        elif attack == "a tree":
            tree.rmdir()
            tree.symlink_to(aside)

    removed = {"a removal through a link": [b"way/precious"], "a removal upwards": [b"../" * 9 + bytes(aside)[1:]]}
    second = add_layer(archives, fill, removed.get(attack, []))
    publish(archives, "base", Layers((first, second)))
    with pytest.raises((BadLayer, subprocess.CalledProcessError)):
        Images(trees, pool, archives).refresh()
    assert (aside / "precious").read_text() == "precious"
    assert not (pool / Layers((first, second)).digest).exists()
