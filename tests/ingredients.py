"""What tests and benchmarks need that takes long to get, made once and kept from run to run below `TEST_CACHE`."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from boxkeep_server.model.images import SOFTWARE, software_of
from boxkeep_server.node.host_mirrors import read_host_mirrors
from boxkeep_server.node.image_build import Builder
from boxkeep_server.node.images import archive_of, current, layers_of
from boxkeep_server.node.layers import TREE as TREE_OF_LAYER
from boxkeep_server.node.layers import unpack
from boxkeep_server.node.recipes import read_recipes

TREE = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("TEST_CACHE", "/var/cache/boxkeep"))


def images(*software: str) -> Path:
    """The directory of all images that there are with this capability software; each such set has its own, and what is
    the same in two lies there once."""
    place = CACHE / "-".join(("images", *software))
    if software:
        same = images()
        with locked("images"):
            _have_the_same(same, place)
    Builder(place, read_recipes(software), read_host_mirrors(), print).build_all()
    return place


def _have_the_same(source: Path, place: Path) -> None:
    place.mkdir(exist_ok=True)
    current_there = [file for file in source.glob("[!.]*.json") if not software_of(file.stem)]
    for file in (*source.glob("[!.]*.layers"), *source.glob("[!.]*.tar.zst"), *current_there):
        fresh = place / f".{file.name}.linked"
        fresh.unlink(missing_ok=True)
        fresh.hardlink_to(file)
        fresh.replace(place / file.name)
        fresh.unlink(missing_ok=True)  # to rename one link of a file to another does nothing


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Within it nobody else has this of the cache: two test runs may want it at once."""
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def base_tree() -> Path:
    """The base image, unpacked: a Debian tree for tests that need one and no node."""
    place = images()
    (layer,) = layers_of(place, current(place)["base"]).digests
    unpacked = CACHE / "trees" / layer
    unpacked.parent.mkdir(exist_ok=True)
    with locked("trees"):
        if not unpacked.exists():
            for old in unpacked.parent.iterdir():
                shutil.rmtree(old)
            half = unpacked.with_suffix(".half")
            half.mkdir()
            unpack(archive_of(place, layer), half)
            half.rename(unpacked)
    return unpacked / TREE_OF_LAYER


def runsc_binary() -> str | None:
    """The runsc that a node would use; fetched as `make up` does when this machine has none that is new enough."""
    found = subprocess.run([TREE / "scripts/runtime.sh", CACHE / "bin"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def web_page() -> Path:
    """The directory of the browser tests' page, with what it loads from npm at the versions of its lock file."""
    source, place = TREE / "tests/browser", CACHE / "page"
    place.mkdir(parents=True, exist_ok=True)
    lock = (source / "package-lock.json").read_bytes()
    stamp = place / "installed.json"
    if not stamp.exists() or stamp.read_bytes() != lock:
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(source / name, place / name)
        npm = Path(sys.executable).with_name("npm")
        subprocess.run([npm, "ci", "--ignore-scripts", "--silent"], cwd=place, check=True)
        stamp.write_bytes(lock)
    shutil.copyfile(source / "xterm.html", place / "xterm.html")
    return place


def chromium() -> str:
    """Debian's Chromium, which `make test` installs."""
    found = shutil.which("chromium")
    assert found is not None, "Debian's package chromium is missing"
    return found


if __name__ == "__main__":
    print("all images are in", images(*SOFTWARE))
