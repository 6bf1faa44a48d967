"""noVNC, which the viewer's page loads: fetched from its package in the npm registry where browsers are asked for."""

import shutil
from pathlib import Path
from typing import Final

from boxkeep_server.node.npm import fetch

PACKAGE: Final = "@novnc/novnc@1.7.0"
SHA512: Final = (
    "b9c1093b1e13d9abc844295ea1d93b6286d98f93b619ad8078b7d0ebd03fca31"
    "bd1c76dadbe3c38304a437716db6b986fbbd191b1db5b0494d168b8ad77473c8"
)
DIRECTORY: Final = "novnc"
_PARTS: Final = ("core", "vendor", "LICENSE.txt", "AUTHORS")


def is_current(images: Path) -> bool:
    """Whether it is there, of this version."""
    return (images / DIRECTORY / PACKAGE.rpartition("@")[2]).is_file()


def ensure(images: Path, scratch: Path) -> None:
    """Have it there.

    Raises:
        NpmFailed: the package cannot be had, or is another.
    """
    if is_current(images):
        return
    package, fresh = fetch(PACKAGE, scratch, SHA512), scratch / DIRECTORY
    fresh.mkdir()
    for part in _PARTS:
        (package / part).rename(fresh / part)
    (fresh / PACKAGE.rpartition("@")[2]).touch()
    for path in (fresh, *fresh.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    shutil.rmtree(images / DIRECTORY, ignore_errors=True)
    fresh.rename(images / DIRECTORY)
