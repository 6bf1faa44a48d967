"""The builder of images: what a recipe adds to its parent is a layer, and the image over it is whole."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from boxkeep_server.model.images import SOFTWARE, Layers
from boxkeep_server.node.host_mirrors import read_host_mirrors
from boxkeep_server.node.image_build import Builder, BuildFailed
from boxkeep_server.node.images import archive_of, current, digest_of, layers_of, text_of
from boxkeep_server.node.layers import REMOVED, TREE, lay, make_layer, pack, unpack
from boxkeep_server.node.mountspace import mounts
from boxkeep_server.node.recipes import Recipe, read_recipes
from tests.clients import eventually
from tests.ingredients import images

SETUP = """
rm /usr/bin/tree
rm -r /usr/share/doc/bash
rm -r /etc/skel && mkdir /etc/skel && echo new > /etc/skel/new
rm -r /usr/share/zoneinfo/Antarctica && echo file > /usr/share/zoneinfo/Antarctica
rm /etc/localtime && mkdir /etc/localtime && touch /etc/localtime/inside
echo changed > /etc/issue
"""
GRANDCHILD = "echo over > /etc/issue; rm -f /etc/skel/new"


def with_base(place: Path, **more: Recipe) -> Builder:
    """A builder that has the base image, and these besides."""
    digest = current(images())["base"]
    (layer,) = layers_of(images(), digest).digests
    for name in (archive_of(place, layer).name, text_of(place, digest).name, "base.json"):
        if not (place / name).exists():
            shutil.copyfile(images() / name, place / name)
    return Builder(place, {**read_recipes(()), **more}, read_host_mirrors())


def recipes(setup: str = SETUP) -> Mapping[str, Recipe]:
    child = Recipe("base-child", setup.encode(), "base", packages=("ed",), setup=setup)
    return {"child": child, "grandchild": Recipe("base-grandchild", b"g", "base-child", setup=GRANDCHILD)}


def builder(place: Path, setup: str = SETUP) -> Builder:
    found = recipes(setup)
    made = with_base(place, **{one.name: one for one in found.values()})
    wanted = {name: recipe for name, recipe in made.recipes.items() if name.startswith("base")}
    return Builder(place, wanted, made.mirrors)


def tree_of(place: Path, into: Path, name: str) -> Path:
    """An image's tree, as a node would lay it."""
    tree = into / name
    tree.mkdir()
    for digest in layers_of(place, current(place)[name]).digests:
        layer = into / f"{name}-{digest}"
        layer.mkdir()
        unpack(archive_of(place, digest), layer)
        lay(layer, tree)
    return tree


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both images over the base, built once; whoever changes something takes a copy."""
    place = tmp_path_factory.mktemp("built")
    assert builder(place).build_all() == ["base-child", "base-grandchild"]
    return place


def inside(tree: Path, script: str) -> str:
    words = ["chroot", tree, "/bin/sh", "-ec", script]
    return subprocess.run(words, check=True, capture_output=True, text=True, env={"PATH": "/usr/sbin:/usr/bin"}).stdout


def test_a_child_holds_the_difference_alone_and_its_tree_is_whole(built: Path, tmp_path: Path) -> None:
    assert builder(built).build_all() == []
    base, child, grandchild = (
        layers_of(built, current(built)[name]) for name in ("base", "base-child", "base-grandchild")
    )
    assert grandchild.line == [base, child, grandchild]
    assert archive_of(built, child.digests[-1]).stat().st_size < archive_of(built, base.digests[0]).stat().st_size / 10
    tree = tree_of(built, tmp_path, "base-grandchild")
    layer = tmp_path / f"base-grandchild-{child.digests[-1]}"
    gone = (layer / REMOVED).read_bytes().split(b"\0")
    assert {b"usr/bin/tree", b"usr/share/doc/bash", b"etc/skel"} <= set(gone)
    assert not [path for path in (layer / TREE).rglob("*") if path.is_char_device()]
    marks = [name for path in (layer / TREE).rglob("*") for name in os.listxattr(path, follow_symlinks=False)]
    assert not [name for name in marks if "overlay" in name]
    assert not (tree / "usr/bin/tree").exists()
    assert not (tree / "usr/share/doc/bash").exists()
    assert os.listdir(tree / "etc/skel") == []
    assert (tree / "usr/share/zoneinfo/Antarctica").read_text() == "file\n"
    assert (tree / "etc/localtime/inside").is_file()
    assert (tree / "etc/issue").read_text() == "over\n"
    told = inside(tree, "dpkg-query -W -f '${db:Status-Abbrev} ${Package}\\n' ed bash; dpkg --audit; ed --version")
    assert "ii  ed" in told
    assert "ii  bash" in told
    assert "GNU" in told
    for name in ("etc/machine-id", "etc/hostname", "etc/resolv.conf"):
        assert (tree / name).stat().st_size == 0, name
    assert os.listdir(tree / "var/lib/apt/lists") == []


def test_a_recipe_that_changes_builds_it_and_what_is_over_it_anew(built: Path, tmp_path: Path) -> None:
    shutil.copytree(built, tmp_path, copy_function=os.link, dirs_exist_ok=True)
    before = current(tmp_path)
    assert builder(tmp_path, "echo > /etc/other").build_all() == ["base-child", "base-grandchild"]
    after = current(tmp_path)
    assert after["base"] == before["base"]
    assert not {after["base-child"], after["base-grandchild"]} & set(before.values())
    (tmp_path / "base-child.json").unlink()
    assert "base-child" in builder(tmp_path, "echo > /etc/other").build_all()
    child, grandchild = (layers_of(tmp_path, current(tmp_path)[name]) for name in ("base-child", "base-grandchild"))
    assert grandchild.parent == child, "it is over the one that is current"


def test_a_build_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    made = builder(tmp_path, "echo no such thing >&2; exit 3")
    before = set(os.listdir(tmp_path))
    with pytest.raises(BuildFailed, match="no such thing"):
        made.build_all()
    assert set(os.listdir(tmp_path)) - before == {".lock"}


KILLED = """
import sys
from pathlib import Path
from tests.contract.test_image_build import builder
builder(Path(sys.argv[1]), "touch /begun; sleep 6").build_all()
"""


def test_a_build_that_is_killed_leaves_no_mount_and_the_next_clears_up(tmp_path: Path) -> None:
    builder(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], start_new_session=True)
    began = ".building-*/*/layer/tree/begun"
    eventually("the build to run its script", lambda: list(tmp_path.glob(began)) or None, 60)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob(".building-*")), "what it ran goes on"
    assert "base-child" not in current(tmp_path)
    assert builder(tmp_path, "true").build_all() == ["base-child", "base-grandchild"]
    assert not list(tmp_path.glob(".building-*"))
    assert not [one for one in mounts() if one.target.startswith(str(tmp_path))]


def test_layers_of_files_alone_are_the_same_over_any_parent(tmp_path: Path) -> None:
    place = images(*SOFTWARE)
    over = {name: layers_of(place, digest) for name, digest in current(place).items() if name.endswith("-opencode")}
    assert len(over) >= 3
    assert len({image.digests[-1] for image in over.values()}) == 1
    for name, image in over.items():
        assert image.parent == Layers(layers_of(place, current(place)[name.removesuffix("-opencode")]).digests)
    bun = {layers_of(place, digest).digests[-1] for name, digest in current(place).items() if name.startswith("bun")}
    assert len(bun - {image.digests[-1] for image in over.values()}) == 1


def test_the_same_files_make_the_same_archive_whenever_they_are_packed(tmp_path: Path) -> None:
    digests = set()
    for number in range(2):
        layer = tmp_path / str(number)
        tree = make_layer(layer)
        (tree / "usr/bin").mkdir(parents=True)
        for name in ("one", "two")[:: 1 if number else -1]:
            (tree / "usr/bin" / name).write_text(name)
            os.utime(tree / "usr/bin" / name, (1000 + number, 2000 + number))
        (tree / "usr/bin/link").symlink_to("one")
        pack(layer, tmp_path / f"{number}.packed", alike=True)
        digests.add(digest_of(tmp_path / f"{number}.packed"))
    assert len(digests) == 1
