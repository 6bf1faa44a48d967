"""What tests and benchmarks need that takes long to get, kept from run to run below `TEST_CACHE`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("TEST_CACHE", "/var/cache/boxkeep-test"))


def base_tree() -> Path | None:
    """The base image, unpacked beside its archive; None when it has not been built."""
    described = CACHE / "images" / "base.json"
    if not described.exists():
        return None
    digest = str(json.loads(described.read_text())["digest"])
    tree = CACHE / "trees" / digest
    if not tree.exists():
        half = tree.with_suffix(".half")
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        archive = CACHE / "images" / f"{digest}.tar.zst"
        subprocess.run(["tar", "--numeric-owner", "--zstd", "-x", "-C", str(half), "-f", str(archive)], check=True)
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
