"""Recipes of images: what each adds to its parent, and the fingerprint that says when one has to be built again."""

import hashlib
import platform
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Final

from boxkeep_server.model.images import images_with, parent_of, recipe_of
from boxkeep_server.model.sandboxes import RUNTIMES

FORMAT: Final = "2"
"""Changes when images are built in another way from the same recipe."""


@dataclass(frozen=True)
class Recipe:
    """An image: either Debian packages on top of a parent, and a script that is run in it last; or files of an npm
    package, and links, which are the same over any parent."""

    name: str
    text: bytes
    parent: str | None
    packages: tuple[str, ...] = ()
    setup: str = ""
    npm: str | None = None
    npm_files: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)


def read_recipes(software: Collection[str]) -> dict[str, Recipe]:
    """The recipes of all images that there are with this capability software, parents first, for this processor."""
    return {name: _read(name) for name in images_with(software, RUNTIMES)}


def _read(name: str) -> Recipe:
    text = resources.files("boxkeep_server.images").joinpath(f"{recipe_of(name)}.toml").read_bytes()
    tree = tomllib.loads(text.decode())
    return Recipe(
        name=name,
        text=text,
        parent=parent_of(name),
        packages=tuple(tree.get("packages", ())),
        setup=tree.get("setup", ""),
        npm=tree["npm"][platform.machine()] if "npm" in tree else None,
        npm_files=tree.get("npm_files", {}),
        links=tree.get("links", {}),
    )


def fingerprint(recipe: Recipe, recipes: Mapping[str, Recipe], host: bytes) -> str:
    """What an image is made from, in 32 hex digits: its recipe, its parents', and what of the host goes into it."""
    chain = [recipe]
    while chain[-1].parent is not None:
        chain.append(recipes[chain[-1].parent])
    known = hashlib.sha256(b"\0".join([FORMAT.encode(), platform.machine().encode(), host]))
    for one in chain:
        known.update(hashlib.sha256(one.text).digest())
    return known.hexdigest()[:32]
