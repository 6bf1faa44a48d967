"""What the packages have beside their modules is installed with them."""

import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.ingredients import TREE


def beside_modules(package: Path) -> list[Path]:
    """The files of a package that are no modules of Python."""
    found = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return [path for path in found if path.suffix != ".py"]


@pytest.mark.parametrize("distribution", ["sdk", "server", "guest"])
def test_every_file_beside_the_modules_is_among_a_packages_data(distribution: str) -> None:
    project = tomllib.loads((TREE / distribution / "pyproject.toml").read_text())
    data = project["tool"]["setuptools"]["package-data"]
    packages = [path.parent for path in (TREE / distribution).glob("boxkeep*/__init__.py")]
    assert packages
    for package in packages:
        wanted = [*data.get("*", ()), *data.get(package.name, ())]
        left = [str(one) for one in beside_modules(package) if not any(fnmatch(one.name, glob) for glob in wanted)]
        assert left == [], f"an installed {package.name} would be without these"
