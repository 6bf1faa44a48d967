"""Images: what is in one, told by its name, and the layers that one is made of, told by its digest."""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal

Software = Literal["documents", "browser", "opencode"]

BASE: Final = "base"
CHAIN: Final[tuple[Software, ...]] = ("documents", "browser")
"""What is laid over the base, each over all before it."""

LOCAL: Final = "local-chromium"
"""The mode of a browser that runs in the machine of its user's code, which has to have it then."""

OPENCODE: Final[Software] = "opencode"
"""What is laid over any image, last of all."""

SOFTWARE: Final[tuple[Software, ...]] = (*CHAIN, OPENCODE)

_DIGEST: Final = re.compile(r"[0-9a-f]{32}")
_LAYERS_MOST: Final = 16


def image_of(runtime: str, software: Collection[str]) -> str:
    """The name of the smallest image that has a runtime and this software."""
    top = next((one for one in reversed(CHAIN) if one in software), None)
    last = OPENCODE if OPENCODE in software else None
    return "-".join(part for part in (runtime, top, last) if part is not None)


def software_of(image: str) -> frozenset[Software]:
    """All capability software that an image of this name has."""
    _, *parts = image.split("-")
    chain = [CHAIN[: CHAIN.index(one) + 1] for one in CHAIN if one in parts]
    return frozenset([*(chain[0] if chain else ()), *([OPENCODE] if OPENCODE in parts else [])])


def software_for(capabilities: Mapping[str, object] | None) -> frozenset[Software]:
    """The software that a sandbox's main machine needs which has these capabilities."""
    wanted: set[Software] = set()
    if _of(capabilities, "documents").get("libreofficeHeadless"):
        wanted.add("documents")
    if _of(capabilities, "browser").get("mode") == LOCAL:
        wanted.add("browser")
    if any(_of(capabilities, name).get("enabled") for name in ("opencode", "agent")):
        wanted.add("opencode")
    return frozenset(wanted)


def _of(capabilities: Mapping[str, object] | None, name: str) -> Mapping[str, object]:
    found = (capabilities or {}).get(name)
    return found if isinstance(found, Mapping) else {}


def parent_of(image: str) -> str | None:
    """The name of the image that one of this name is laid over; None for the base."""
    runtime, *software = image.split("-")
    if OPENCODE in software:
        return "-".join([runtime, *software[:-1]])
    if runtime != BASE:
        return "-".join([BASE, *software])
    if not software:
        return None
    place = [str(one) for one in CHAIN].index(software[0])
    return image_of(BASE, CHAIN[:place])


def recipe_of(image: str) -> str:
    """What an image of this name has that its parent has not, by the name of its recipe."""
    runtime, *software = image.split("-")
    if OPENCODE in software:
        return OPENCODE
    return software[-1] if runtime == BASE and software else runtime


def images_with(software: Collection[str], runtimes: Collection[str]) -> list[str]:
    """The names of all images that there are where the operator asks for this software, parents first."""
    most = max((CHAIN.index(one) + 1 for one in CHAIN if one in software), default=0)
    names = [
        image_of(runtime, CHAIN[:length])
        for runtime in (BASE, *(one for one in runtimes if one != BASE))
        for length in range(most + 1)
    ]
    return [*names, *(f"{name}-{OPENCODE}" for name in names)] if OPENCODE in software else names


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers of an image by the digests of their archives, the lowest first. The image is called by the digest of
    `text`, which so names its content and all its parents'."""

    digests: tuple[str, ...]

    @property
    def text(self) -> bytes:
        """What is written down of an image, the same wherever it is made of the same."""
        return json.dumps({"layers": self.digests}, separators=(",", ":")).encode()

    @property
    def digest(self) -> str:
        """What the image is called."""
        return hashlib.sha256(self.text).hexdigest()[:32]

    @property
    def parent(self) -> "Layers | None":
        """The image below; None where this is the lowest."""
        return Layers(self.digests[:-1]) if len(self.digests) > 1 else None

    @property
    def line(self) -> list["Layers"]:
        """The image after all its parents, the lowest first."""
        return [Layers(self.digests[:length]) for length in range(1, len(self.digests) + 1)]


def read_layers(text: bytes) -> Layers:
    """The layers that a text names.

    Raises:
        ValueError: it is none of `Layers.text`.
    """
    tree = json.loads(text)
    digests = tree.get("layers") if isinstance(tree, dict) else None
    if not isinstance(digests, list) or not 0 < len(digests) <= _LAYERS_MOST:
        raise ValueError("not the layers of an image")
    found = Layers(tuple(str(one) for one in digests))
    if found.text != text or not all(_DIGEST.fullmatch(one) for one in found.digests):
        raise ValueError("not the layers of an image")
    return found
