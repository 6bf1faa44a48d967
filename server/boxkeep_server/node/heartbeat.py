"""The node's heartbeat on disk: when all machines that it calls running were last seen alive."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from boxkeep_server.node import durable
from boxkeep_server.node.layer import Tripwire, no_tripwire


class Beat(BaseModel):
    """At `at`, on that boot, every machine in `oom_kills` was alive and had so many processes killed for memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    boot_id: str
    at: int
    oom_kills: dict[str, int] = Field(default_factory=dict)


class Heartbeat:
    """One small file, replaced every few seconds."""

    def __init__(self, path: Path, step: Tripwire = no_tripwire) -> None:
        self._path = path
        self._step = step

    def last(self) -> Beat | None:
        """The last beat of the process before this one; None where there is none to be read."""
        try:
            return Beat.model_validate_json(self._path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def write(self, beat: Beat) -> None:
        """Write a beat down."""
        self._step("beat")
        durable.replace(self._path, beat.model_dump_json().encode())
