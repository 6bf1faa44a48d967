"""A service on ground that can be taken from under it: its database's disk, its store of blobs, its clock."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.buckets import Bucket, bucket
from tests.chaos.proxies import FaultyStore, faulty
from tests.chaos.walls import MOVER, Wall
from tests.ingredients import images
from tests.instances import OWN
from tests.layered import base_alone
from tests.services import Service, running_service

DATABASE_MIB = 48
BLOBS_WITHIN_S = 4


@dataclass(frozen=True)
class Ground:
    """The service, and what it stands on."""

    service: Service
    bucket: Bucket
    store: FaultyStore
    disk: Path
    """The small file system that holds the database and nothing else."""
    wall: Wall

    @property
    def database(self) -> Path:
        """The database's file."""
        return self.disk / "boxkeep.sqlite3"

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """Within it not a byte is left for the control plane's database."""
        filler = self.disk / "filler"
        try:
            _fill(filler)
            yield
        finally:
            filler.unlink(missing_ok=True)

    @contextmanager
    def full_pool(self) -> Iterator[None]:
        """Within it the disks of sandboxes, and what is kept of them, have no room at all."""
        try:
            self._in_pool(_FILL_POOL)
            yield
        finally:
            self._in_pool("rm -f filler*")

    def snapshots(self) -> list[str]:
        """The snapshots on the node, halves too."""
        return self._in_pool("ls snapshots").split()

    def _in_pool(self, script: str) -> str:
        """Run a script in the directory of the node's pool, which only the node's own mount namespace has."""
        pool = self.service.root / "run" / self.service.instance / "pool"
        inside = ["nsenter", "--mount", f"--target={self.service.running['node'].pid}", "sh", "-c"]
        done = subprocess.run([*inside, f"cd {pool}; {script}"], check=True, capture_output=True, text=True, cwd="/")
        return done.stdout


_FILL_POOL = """
for size in 512M 64M 8M 1M 128K 4K; do
  while fallocate -l $size filler-$size-$((n += 1)) 2>/dev/null; do :; done
done
sync -f .
"""


def _fill(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while file.write(b"\1" * size) == size:
                    pass
            except OSError:
                continue


@contextmanager
def standing(name: str) -> Iterator[Ground]:
    """A service of its own on such ground, whole yet; `name` is a letter that no other running service of a test run
    has."""
    place = Path("/var/lib/boxkeep-test") / f"{OWN.name}-ground"
    with _small_disk(place / "disk") as disk, bucket("faulted") as kept, faulty(kept.endpoint) as store:
        wall = Wall(place / "wall")
        wall.set(0)
        settings = {
            **kept.settings,
            **wall.settings,
            "BOXKEEP_BLOBS__ENDPOINT": f"http://127.0.0.1:{store.port}",
            "BOXKEEP_BLOBS__TIMEOUT_S": str(BLOBS_WITHIN_S),
            "BOXKEEP_CONTROL__DATABASE": f'"sqlite+aiosqlite:///{disk}/boxkeep.sqlite3"',
            "BOXKEEP_CONTROL__NO_ROOM_WAIT_MS": "12000",
            "BOXKEEP_NODE__DISK_GIB": "4",
            "BOXKEEP_NODE__MACHINE_DISK_GIB": "1",
            "BOXKEEP_NODE__IMAGES": str(base_alone(images(), place / "images")),
        }
        with running_service(settings, beside=name, packages=(MOVER,)) as service:
            yield Ground(service, kept, store, disk, wall)


@contextmanager
def _small_disk(directory: Path) -> Iterator[Path]:
    directory.mkdir(parents=True, exist_ok=True)
    while directory.is_mount():  # a run that was killed has left it
        subprocess.run(["umount", str(directory)], check=True)
    options = f"size={DATABASE_MIB}m,mode=1777"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "boxkeep-test", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)
        shutil.rmtree(directory.parent)
