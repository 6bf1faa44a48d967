"""Snapshots on disk: directories beside the disks, each whole once its manifest is there, and verified by it."""

import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from boxkeep_server.model.machines import Key, is_name, names_of
from boxkeep_server.model.node_api import Id, Role, Snapshot
from boxkeep_server.node import durable
from boxkeep_server.node.disks import Disks
from boxkeep_server.node.volumes import ARRIVING, DISK

_log = logging.getLogger(__name__)

_MANIFEST: Final = "manifest.json"
_MEMORY: Final = "memory"
_MARK: Final = "written"
_BLOCK: Final = 8 << 20


class Damaged(Exception):
    """A snapshot is not what its manifest says; the sentence says where."""


class FileSum(BaseModel):
    """A file's size, and the SHA-256 of each block of 8 MiB."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int
    blocks: tuple[str, ...]


class Manifest(BaseModel):
    """All that is known of a snapshot. `guest`, `runtime` and `processor` (its features) are those that its memory was
    made over; `born_as` and `secret` open the guest in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    snapshot: Snapshot
    guest: str
    runtime: str
    processor: tuple[str, ...]
    born_as: Id
    secret: str = Field(repr=False)
    memory: dict[str, FileSum]


class Snapshots:
    """The snapshots of one node. Every call is blocking; those for one name must not overlap."""

    def __init__(self, disks: Disks) -> None:
        self._disks = disks
        self._root = disks.snapshots

    def disk(self, name: str) -> Path:
        """Where a snapshot's disk is."""
        return self._path(name) / DISK

    def memory(self, name: str) -> Path:
        """The directory of a snapshot's memory."""
        return self._path(name) / _MEMORY

    def mark(self, name: str) -> Path:
        """The file that says that all of the memory has been written."""
        return self._path(name) / _MARK

    def read(self, name: str) -> Manifest | None:
        """The manifest of a snapshot; None when there is no whole one.

        Raises:
            Damaged: it cannot be understood.
        """
        try:
            return Manifest.model_validate_json((self._path(name) / _MANIFEST).read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise Damaged(f"its manifest cannot be understood ({error.error_count()} faults)") from error

    def all(self) -> list[Manifest]:
        """Every snapshot that is whole."""
        return [manifest for name, _ in self._directories() if (manifest := self._readable(name)) is not None]

    def begin(self, name: str) -> None:
        """An empty place for a snapshot; what was left of an unfinished one is removed."""
        path = self._path(name)
        self._remove(path)
        (path / _MEMORY).mkdir(mode=0o700, parents=True)
        self._disks.volume.write_plainly(
            path / _MEMORY
        )  # we keep sums of our own; to compress it takes longer than to write it

    def begun(self, name: str) -> bool:
        """Whether there is anything of a snapshot."""
        return (self._path(name) / _MEMORY).is_dir()

    def written(self, name: str, word: str) -> bool:
        """Whether all of the memory was written, with that word as its mark."""
        try:
            return self.mark(name).read_text() == word
        except FileNotFoundError:
            return False

    def flush(self) -> None:
        """Have what was written until now on the device."""
        self._disks.volume.flush()

    def take_disk(self, name: str, machine: str) -> None:
        """Keep the disk of a machine that stands still, on the device."""
        self._disks.volume.remove(self.disk(name))
        self._disks.keep(machine, self.disk(name))

    def disk_bytes(self, name: str) -> int:
        """How many bytes the disk of a snapshot refers to."""
        return self._disks.volume.size(self.disk(name))

    def sum_memory(self, name: str) -> dict[str, FileSum]:
        """The sums of the files of memory, all of them on the device."""
        paths = sorted(self.memory(name).iterdir())
        for path in paths:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        durable.flush_directory(self.memory(name))
        return _sums(paths)

    def drop_memory(self, name: str) -> None:
        """Have no memory in a snapshot that has none to be trusted."""
        shutil.rmtree(self.memory(name))
        self.memory(name).mkdir(mode=0o700)

    def seal(self, name: str, manifest: Manifest) -> None:
        """Make a snapshot whole; it is on the device when this returns."""
        path = self._path(name)
        durable.create(path / _MANIFEST, manifest.model_dump_json().encode())
        durable.flush_directory(self._root)

    def verify(self, name: str, manifest: Manifest, *, memory: bool = True) -> None:
        """Hold a snapshot against its manifest: its disk, and its memory unless that does not matter.

        Raises:
            Damaged
        """
        disk = self.disk(name)
        if not (self._disks.volume.is_whole(disk) and (disk / "upper").is_dir()):
            raise Damaged("its disk is gone")
        if not memory:
            return
        paths = sorted(self.memory(name).iterdir()) if manifest.memory else []
        if {path.name for path in paths} != set(manifest.memory):
            raise Damaged("files of its memory are missing or too many")
        for file, found in _sums(paths).items():
            if found != manifest.memory[file]:
                raise Damaged(f"the file {file} of its memory is not what was written")

    def discard(self, sandbox: str, through: int, role: Role) -> int:
        """Remove every snapshot that a pause of a sandbox's role left up to an epoch; how many. May be repeated."""
        found = ((Key.named(name), path) for name, path in self._directories())
        old = [path for key, path in found if key and key == (sandbox, min(key.epoch, through), role)]
        for path in old:
            self._remove(path)
        return len(old)

    def forget(self, checkpoint: str) -> bool:
        """Remove what is kept of all machines at a checkpoint; whether there was anything. May be repeated."""
        paths = [self._path(name) for name in names_of(checkpoint)]
        there = any(path.is_dir() for path in paths)
        for path in paths:
            self._remove(path)
        return there

    def halves(self) -> list[str]:
        """What was begun and is not whole."""
        return [name for name, path in self._directories() if not (path / _MANIFEST).exists()]

    def clear(self, names: Collection[str]) -> int:
        """Remove those of these that are not whole; how many."""
        halves = [path for path in map(self._path, names) if path.is_dir() and not (path / _MANIFEST).exists()]
        for path in halves:
            self._remove(path)
        return len(halves)

    def digests(self) -> set[str]:
        """The images that snapshots were made over."""
        return {manifest.snapshot.digest for manifest in self.all()}

    def _path(self, name: str) -> Path:
        if not is_name(name):
            raise ValueError(f"not the name of a snapshot: {name!r}")
        return self._root / name

    def _directories(self) -> Iterator[tuple[str, Path]]:
        return ((path.name, path) for path in sorted(self._root.iterdir()) if is_name(path.name))

    def _readable(self, name: str) -> Manifest | None:
        try:
            return self.read(name)
        except Damaged as error:
            _log.warning("the snapshot %s: %s", name, error)
            return None

    def _remove(self, path: Path) -> None:
        """The manifest first: what is half removed is never taken for whole."""
        with contextlib.suppress(FileNotFoundError):
            (path / _MANIFEST).unlink()
            durable.flush_directory(path)
        for tree in (DISK, ARRIVING):
            self._disks.volume.remove(path / tree)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)


def _sums(paths: Collection[Path]) -> dict[str, FileSum]:
    """By file name; blocks are read on as many threads as there are processors."""
    found = {}
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        for path in paths:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                size = os.fstat(descriptor).st_size
                blocks = threads.map(partial(_sum_of_block, descriptor), range(0, size, _BLOCK))
                found[path.name] = FileSum(bytes=size, blocks=tuple(blocks))
            finally:
                os.close(descriptor)
    return found


def _sum_of_block(descriptor: int, at: int) -> str:
    return hashlib.sha256(os.pread(descriptor, _BLOCK, at)).hexdigest()
