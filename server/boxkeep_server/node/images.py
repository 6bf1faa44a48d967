"""The images that machines of this node begin from: unpacked into the pool once, read-only, shared by all."""

import contextlib
import hashlib
import json
import secrets
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boxkeep_server.node import btrfs

_UNPACK: Final = ("tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--zstd", "-x")

UNUSED_S: Final = 600.0


@dataclass(frozen=True)
class Image:
    """A read-only tree: what users call it, what it is made from, where it lies."""

    name: str
    digest: str
    root: Path


def archive_of(archives: Path, digest: str) -> Path:
    """Where the archive of an image is, whether it is there or not."""
    return archives / f"{digest}.tar.zst"


def digest_of(archive: Path) -> str:
    """What an image is called: the first half of the SHA-256 of its archive, in hexadecimals."""
    with archive.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def current(archives: Path) -> dict[str, str]:
    """The digest of each image that has been built."""
    found = {}
    for file in sorted(archives.glob("*.json")):
        with contextlib.suppress(ValueError, KeyError):
            named = json.loads(file.read_text())
            if archive_of(archives, str(named["digest"])).exists():
                found[str(named["name"])] = str(named["digest"])
    return found


class Images:
    """Images in `pool`, taken from the archives of a builder. Every call but `all` may take seconds and blocks."""

    def __init__(self, pool: Path, archives: Path) -> None:
        self._pool = pool
        self._archives = archives
        self._all: dict[str, Image] = {}
        self._unpacking = threading.Lock()
        self._unused_since: dict[str, float] = {}

    def all(self) -> Mapping[str, Image]:
        """Those that machines can be made of now."""
        return self._all

    def refresh(self) -> bool:
        """Unpack what has been built since; whether there is anything new."""
        wanted = current(self._archives)
        for name, digest in wanted.items():
            if name not in self._all or self._all[name].digest != digest:
                self.unpack(digest)
        found = {name: Image(name, digest, self._pool / digest) for name, digest in wanted.items()}
        changed = found != self._all
        self._all = found
        return changed

    def unpack(self, digest: str) -> None:
        """Have the tree of an image whose archive is there. A half unpacked one never has the name of a whole one."""
        with self._unpacking:
            if not (self._pool / digest).exists():
                self._unpack(digest)

    def _unpack(self, digest: str) -> None:
        self._remove_halves()
        half = f".half-{secrets.token_hex(4)}"
        btrfs.create_subvolume(self._pool, half)
        archive = archive_of(self._archives, digest)
        subprocess.run([*_UNPACK, "-C", self._pool / half, "-f", archive], check=True)
        (self._pool / half).chmod(0o755)
        btrfs.create_snapshot(self._pool / half, self._pool, digest, read_only=True)
        btrfs.delete_subvolume(self._pool, half)

    def _remove_halves(self) -> None:
        for half in self._pool.glob(".half-*"):
            btrfs.delete_subvolume(self._pool, half.name)

    def remove_unused(self, used: set[str], now_s: float) -> int:
        """Remove images that for `UNUSED_S` have been neither current nor `used` (digests); how many.

        `now_s` is of a clock that only goes forward. The time is for machines that are begun from an image and not
        written down yet. While nothing is current nothing is removed.
        """
        if not self._all:
            return 0
        keep = used | {image.digest for image in self._all.values()}
        unused = {entry.name for entry in self._pool.iterdir() if not entry.name.startswith(".")} - keep
        self._unused_since = {digest: self._unused_since.get(digest, now_s) for digest in unused}
        old = [digest for digest, since in self._unused_since.items() if now_s - since >= UNUSED_S]
        for digest in old:
            btrfs.delete_subvolume(self._pool, digest)
        return len(old)
