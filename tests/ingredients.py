"""What tests and benchmarks need that takes long to get, made once and kept from run to run below `TEST_CACHE`."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

from boxkeep_server.node.host_mirrors import read_host_mirrors
from boxkeep_server.node.image_build import Builder
from boxkeep_server.node.images import current
from boxkeep_server.node.recipes import read_recipes

TREE = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("TEST_CACHE", "/var/cache/boxkeep"))


def images() -> Path:
    """The directory of the images, all built."""
    place = CACHE / "images"
    Builder(place, read_recipes(), read_host_mirrors()).build_all()
    return place


def base_tree() -> Path:
    """The base image, unpacked: a Debian tree for tests that need one and no node."""
    place = images()
    digest = current(place)["base"]
    tree = CACHE / "trees" / digest
    tree.parent.mkdir(exist_ok=True)
    with (CACHE / "trees.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tree.exists():
            for old in tree.parent.iterdir():
                shutil.rmtree(old)
            half = tree.with_suffix(".half")
            half.mkdir()
            archive = place / f"{digest}.tar.zst"
            subprocess.run(["tar", "--numeric-owner", "--zstd", "-x", "-C", half, "-f", archive], check=True)
            half.rename(tree)
    return tree


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
