"""Recipes of images: what is in each, and the fingerprint that says when one has to be built again."""

import hashlib
import platform
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Final

from boxkeep_server.model.sandboxes import RUNTIMES

FORMAT: Final = "1"
"""Changes when images are built in another way from the same recipe."""


@dataclass(frozen=True)
class Recipe:
    """An image: Debian packages on top of a parent, files of an npm package, and a script that is run in it last."""

    name: str
    text: bytes
    parent: str | None
    packages: tuple[str, ...]
    npm: str | None
    npm_files: Mapping[str, str]
    setup: str


def read_recipes() -> dict[str, Recipe]:
    """All recipes, by name, for this machine's processor."""
    return {name: _read(name) for name in ("base", *(name for name in RUNTIMES if name != "base"))}


def _read(name: str) -> Recipe:
    text = resources.files("boxkeep_server.images").joinpath(f"{name}.toml").read_bytes()
    tree = tomllib.loads(text.decode())
    return Recipe(
        name=name,
        text=text,
        parent=tree.get("parent"),
        packages=tuple(tree.get("packages", ())),
        npm=tree.get("npm", {}).get(platform.machine()),
        npm_files=tree.get("npm_files", {}),
        setup=tree.get("setup", ""),
    )


def fingerprint(recipe: Recipe, recipes: Mapping[str, Recipe], host: bytes) -> str:
    """What an image is made from, in 32 hex digits: its recipe, its parent's, and what of the host goes into it."""
    chain = [recipe]
    while chain[-1].parent is not None:
        chain.append(recipes[chain[-1].parent])
    known = hashlib.sha256(b"\0".join([FORMAT.encode(), platform.machine().encode(), host]))
    for one in chain:
        known.update(hashlib.sha256(one.text).digest())
    return known.hexdigest()[:32]
