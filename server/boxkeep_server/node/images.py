"""The images that machines of this node begin from: unpacked once beside their disks, read-only, shared by all."""

import contextlib
import hashlib
import json
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boxkeep_server.model.images import Layers, read_layers, software_of
from boxkeep_server.node import durable
from boxkeep_server.node.layers import lay, unpack
from boxkeep_server.node.volumes import HALF, Trees

UNUSED_S: Final = 600.0
_LAYER: Final = ".layer-"


@dataclass(frozen=True)
class Image:
    """A read-only tree: what users call it, what it is made from, where it lies."""

    name: str
    digest: str
    root: Path


def archive_of(archives: Path, digest: str) -> Path:
    """Where the archive of a layer is, whether it is there or not."""
    return archives / f"{digest}.tar.zst"


def digest_of(archive: Path) -> str:
    """What a layer is called: the first half of the SHA-256 of its archive, in hexadecimals."""
    with archive.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def text_of(archives: Path, digest: str) -> Path:
    """Where it is written which layers an image has, whether it is there or not."""
    return archives / f"{digest}.layers"


def layers_of(archives: Path, digest: str) -> Layers:
    """The layers of an image.

    Raises:
        FileNotFoundError: it is not here.
    """
    return read_layers(text_of(archives, digest).read_bytes())


def put_layers(archives: Path, image: Layers) -> None:
    """Write down of which layers an image is."""
    durable.replace(text_of(archives, image.digest), image.text)


def is_whole(archives: Path, digest: str) -> bool:
    """Whether an image is here with all its layers."""
    try:
        found = layers_of(archives, digest)
    except (FileNotFoundError, ValueError):
        return False
    return all(archive_of(archives, one).is_file() for one in found.digests)


def current(archives: Path) -> dict[str, str]:
    """The digest of each image that has been built."""
    found = {}
    for file in sorted(archives.glob("*.json")):
        with contextlib.suppress(ValueError, KeyError):
            named = json.loads(file.read_text())
            if is_whole(archives, str(named["digest"])):
                found[str(named["name"])] = str(named["digest"])
    return found


class Images:
    """Images, as trees in `place`, taken from the archives of a builder. Every call but `all` may take seconds, and
    blocks."""

    def __init__(self, trees: Trees, place: Path, archives: Path) -> None:
        self._trees = trees
        self._place = place
        self._archives = archives
        self._all: dict[str, Image] = {}
        self._unpacking = threading.Lock()
        self._unused_since: dict[str, float] = {}

    def all(self) -> Mapping[str, Image]:
        """Those that machines can be made of now."""
        return self._all

    def refresh(self, *, lean: bool = False) -> bool:
        """Unpack what has been built since; whether there is anything new. `lean`: of images with capability software
        take up only those that lie here already."""
        wanted = {
            name: digest
            for name, digest in current(self._archives).items()
            if not lean or not software_of(name) or (self._place / digest).exists()
        }
        for name, digest in wanted.items():
            if name not in self._all or self._all[name].digest != digest:
                self.unpack(digest)
        found = {name: Image(name, digest, self._place / digest) for name, digest in wanted.items()}
        changed = found != self._all
        self._all = found
        return changed

    def unpack(self, digest: str) -> None:
        """Have the tree of an image that is whole in the archives. A half unpacked one never has a whole one's name.

        An image begins as its parent, has its layer laid over, and shares what both have. So do images that have
        a layer in common: it is unpacked once, and kept for that as long as one of them is.

        Raises:
            FileNotFoundError: it is not in the archives.
            CalledProcessError, BadLayer: an archive is damaged, or there is no room.
        """
        with self._unpacking:
            if not (self._place / digest).exists():
                for image in layers_of(self._archives, digest).line:
                    self._have(image)

    def _have(self, image: Layers) -> None:
        if (self._place / image.digest).exists():
            return
        layer = self._layer(image.digests[-1])
        with self._half(image.digest, image.parent) as half:
            lay(layer, half)

    def _layer(self, digest: str) -> Path:
        place = self._place / f"{_LAYER}{digest}"
        if not place.exists():
            with self._half(place.name) as half:
                unpack(archive_of(self._archives, digest), half)
        return place

    @contextlib.contextmanager
    def _half(self, name: str, parent: Layers | None = None) -> Iterator[Path]:
        """A tree to be filled, which has its name, for nobody to write into, once that is done; it begins as `parent`,
        whose files are replaced and never written into."""
        self._trees.clear(self._place)
        half = self._place / f"{HALF}{secrets.token_hex(4)}"
        if parent is None:
            self._trees.create(half)
        else:
            self._trees.share(self._place / parent.digest, half)
        yield half
        half.chmod(0o755)
        self._trees.settle(half, name)

    def remove_unused(self, used: set[str], now_s: float) -> int:
        """Remove images that for `UNUSED_S` have been neither current nor `used` (digests), nor parents of such; how
        many. Layers that none of those is made of go with them.

        `now_s` is of a clock that only goes forward. The time is for machines that are begun from an image and not
        written down yet. While nothing is current nothing is removed.
        """
        if not self._all:
            return 0
        with self._unpacking:
            keep = self._with_parents(used | {image.digest for image in self._all.values()})
            names = {entry.name for entry in self._place.iterdir() if not entry.name.startswith(HALF)}
            unused = names - keep
            self._unused_since = {name: self._unused_since.get(name, now_s) for name in unused}
            old = [name for name, since in self._unused_since.items() if now_s - since >= UNUSED_S]
            for name in old:
                self._trees.remove(self._place / name)
        return sum(not name.startswith(_LAYER) for name in old)

    def _with_parents(self, digests: Iterable[str]) -> set[str]:
        """What lies here for these images: they, their parents, and the layers of all."""
        found = set(digests)
        for digest in digests:
            with contextlib.suppress(FileNotFoundError, ValueError):
                image = layers_of(self._archives, digest)
                found |= {one.digest for one in image.line} | {f"{_LAYER}{one}" for one in image.digests}
        return found
