"""The disks of machines: one tree for each, with its limit, on the volume that also has images and snapshots."""

import shutil
from pathlib import Path
from typing import Final

from boxkeep_server.model.ids import is_id
from boxkeep_server.node.volumes import Volume

PARTS: Final = ("upper", "work", "log")


class Disks:
    """The disks on a volume. To be used from inside the mount space; every call is blocking.

    A machine's disk is the tree `machines/<id>` with the directories of `PARTS`. Files in it carry the owners that the
    machine sees, whatever range of uids it runs in, so a disk may move between isolations and nodes.
    """

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.images = volume.mount / "images"
        self.snapshots = volume.mount / "snapshots"
        self._machines = volume.mount / "machines"

    def open(self) -> None:
        """Open the volume, with nothing there that a killed process left half done. May be repeated."""
        self.volume.open()
        for directory in (self.images, self.snapshots, self._machines):
            directory.mkdir(mode=0o700, exist_ok=True)
        for directory in (self.images, self._machines):
            self.volume.clear(directory)

    def path(self, machine: str) -> Path:
        """Where a machine's disk is, whether it is there or not."""
        if not is_id(machine):
            raise ValueError(f"not a machine id: {machine!r}")
        return self._machines / machine

    def create(self, machine: str, limit_bytes: int) -> Path:
        """A new, empty disk.

        Raises:
            FileExistsError: the machine has one.
        """
        path = self.path(machine)
        self.volume.create(path)
        self.volume.limit(path, limit_bytes)
        for part in PARTS:
            (path / part).mkdir(mode=0o755)
        return path

    def copy(self, origin: Path, machine: str, limit_bytes: int) -> Path:
        """A disk that begins as `origin`, another machine's or one that was kept. `work` is emptied, as overlayfs asks.

        Exact when the origin's machine is gone or frozen, else as a crash would leave it.

        Raises:
            FileExistsError: the machine has one.
            TimeoutError: it is too large to be copied in time.
        """
        path = self.path(machine)
        self.volume.copy(origin, path)
        self.volume.limit(path, limit_bytes)
        shutil.rmtree(path / "work")
        (path / "work").mkdir(mode=0o755)
        return path

    def keep(self, machine: str, path: Path) -> None:
        """Keep a machine's disk as it is now, for nobody to write into, at `path` on the volume; on the device then.

        Raises:
            FileExistsError, TimeoutError: as `copy`.
        """
        self.volume.keep(self.path(machine), path)

    def delete(self, machine: str) -> None:
        """Remove a machine's disk and what was kept of its limit. May be repeated."""
        self.volume.remove(self.path(machine))

    def machines(self) -> list[str]:
        """The ids of every machine that has a disk."""
        if not self._machines.is_dir():
            return []
        return sorted(entry.name for entry in self._machines.iterdir() if is_id(entry.name))
