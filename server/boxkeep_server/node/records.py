"""What the node writes down of each machine before it makes anything of it, so that nothing is ever lost sight of."""

import contextlib
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from boxkeep_server.model.ids import is_id
from boxkeep_server.model.node_api import Isolation


@dataclass(frozen=True)
class Machine:
    """A machine as its node knows it. `born_as` is the id that its guest goes by until a claim gives it its own.

    `secret` and `epoch` open its guest until it is handed over.

    `pid` and `started` (clock ticks since the boot named by `boot_id`) are those of its first process on the host, None
    until there is one.
    """

    id: str
    born_as: str
    isolation: Isolation
    image: str
    digest: str
    index: int
    address: str
    port: int
    secret: str
    boot_id: str
    netns: str
    pid: int | None = None
    started: int | None = None
    epoch: int = 0
    gateway: str = ""

    def running_as(self, pid: int, started: int) -> "Machine":
        """The same machine with its first process."""
        return replace(self, pid=pid, started=started)

    def __repr__(self) -> str:
        return f"Machine({self.id}, {self.isolation}, {self.image}, {self.address}:{self.port}, pid={self.pid})"


class Records:
    """The files `<id>.json` of one directory, 0600 each and replaced as a whole.

    Not flushed to the device: after a crash of the host nothing of a machine is left but its disk, which is found by
    its name.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, machine: Machine) -> None:
        """Write a machine down, in place of what was written of it."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self._path(machine.id).with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(machine), file)
        fresh.replace(self._path(machine.id))

    def read(self, machine: str) -> Machine | None:
        """What is written of a machine; None when nothing, or when it cannot be understood."""
        try:
            return Machine(**json.loads(self._path(machine).read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def remove(self, machine: str) -> None:
        """Forget a machine. May be repeated."""
        for path in (self._path(machine), self._path(machine).with_suffix(".new")):
            path.unlink(missing_ok=True)

    def machines(self) -> list[str]:
        """The ids of every machine that something is written of."""
        with contextlib.suppress(FileNotFoundError):
            return sorted({entry.stem for entry in self._directory.iterdir() if is_id(entry.stem)})
        return []

    def digests(self) -> set[str]:
        """The images that machines are made of."""
        return {one.digest for machine in self.machines() if (one := self.read(machine)) is not None}

    def _path(self, machine: str) -> Path:
        if not is_id(machine):
            raise ValueError(f"not a machine id: {machine!r}")
        return self._directory / f"{machine}.json"
