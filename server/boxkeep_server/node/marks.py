"""Marks of the warm pool: the files that say which machines wait for a sandbox, and what they are made of."""

import contextlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from boxkeep_server.model.ids import is_id
from boxkeep_server.model.node_api import Id, ImageName, Isolation
from boxkeep_server.node import durable
from boxkeep_server.node.layer import Tripwire, no_tripwire


class Mark(BaseModel):
    """A warm machine, good only on the boot it names and while its digests are those of the day."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: Id
    image: ImageName
    isolation: Isolation
    digests: dict[str, str]
    boot_id: str


class Marks:
    """The files `<machine>.json` of one directory."""

    def __init__(self, directory: Path, step: Tripwire = no_tripwire) -> None:
        self._directory = directory
        self._step = step

    def load(self) -> list[Mark]:
        """Every mark. One that cannot be understood marks nothing and is removed."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable.clear_unfinished(self._directory)
        found = []
        for path in sorted(self._directory.glob("*.json")):
            try:
                found.append(Mark.model_validate_json(path.read_bytes()))
            except ValidationError:
                path.unlink()
        return found

    def write(self, mark: Mark) -> None:
        """Mark a machine as warm. Survives this process; on another boot of the host it would mean nothing."""
        self._step("mark")
        durable.replace(self._path(mark.machine), mark.model_dump_json().encode())

    def remove(self, machine: str) -> None:
        """Take a mark away. May be repeated."""
        self._step("unmark")
        with contextlib.suppress(FileNotFoundError):
            self._path(machine).unlink()

    def _path(self, machine: str) -> Path:
        if not is_id(machine):
            raise ValueError(f"not a machine id: {machine!r}")
        return self._directory / f"{machine}.json"
