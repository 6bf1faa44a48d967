"""Bindings: the files that say which machine belongs to which sandbox, epoch and role; they outlive every process."""

import logging
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from boxkeep_server.model.ids import is_id
from boxkeep_server.model.machines import Key
from boxkeep_server.model.node_api import ClaimState, DeathReason, Id, ImageName, Isolation, Role
from boxkeep_server.node import durable
from boxkeep_server.node.layer import Tripwire, no_tripwire

_log = logging.getLogger(__name__)


class Binding(BaseModel):
    """A machine bound to a sandbox. `secret` is the one of this epoch; what the sandbox's `env` holds is not here.

    `ends_at` is when it is ended at the latest, in ms of the host's uptime; `not_after` says the same by the host's
    clock as that was when it was asked for. `last_seen_at` is when it was last known to live by who wrote this; None of
    `died_at` in a dead one means that nobody saw it die.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: Id
    sandbox: Id
    epoch: int
    role: Role
    image: ImageName
    isolation: Isolation
    digests: dict[str, str]
    boot_id: str
    secret: str = Field(repr=False)
    claimed_at: int
    not_after: int
    ends_at: int
    state: ClaimState = ClaimState.STARTING
    reason: DeathReason | None = None
    address: str = ""
    port: int = 0
    last_seen_at: int
    died_at: int | None = None
    oom_kills: int = 0

    @property
    def key(self) -> Key:
        """What the machine is bound to."""
        return Key(self.sandbox, self.epoch, self.role)

    def with_(self, **changes: object) -> "Binding":
        """The same binding with some fields changed."""
        return self.model_copy(update=changes)


class Bindings:
    """The files `<machine>.json` of one directory. Only one process may use it at a time."""

    def __init__(self, directory: Path, step: Tripwire = no_tripwire) -> None:
        self._directory = directory
        self._step = step

    def load(self) -> list[Binding]:
        """Every binding; what a killed process left half written is cleared away.

        A file that cannot be understood is none of ours to act on: it is set aside and said loudly.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable.clear_unfinished(self._directory)
        found = []
        for path in sorted(self._directory.glob("*.json")):
            try:
                found.append(Binding.model_validate_json(path.read_bytes()))
            except ValidationError:
                _log.exception("the binding %s cannot be understood and is set aside", path)
                path.replace(path.with_suffix(".unreadable"))
        return found

    def bind(self, binding: Binding) -> None:
        """Bind a machine once and for all; on the device when this returns. Blocking.

        Raises:
            FileExistsError: it is bound already.
        """
        self._step("bind")
        durable.create(self._path(binding.machine), _bytes(binding))

    def save(self, binding: Binding) -> None:
        """Write what changed of a binding. Survives this process; after a crash of the host the machine is gone too."""
        self._step("save binding")
        durable.replace(self._path(binding.machine), _bytes(binding))

    def remove(self, machine: str) -> None:
        """Forget a binding. May be repeated."""
        self._step("remove binding")
        self._path(machine).unlink(missing_ok=True)

    def _path(self, machine: str) -> Path:
        if not is_id(machine):
            raise ValueError(f"not a machine id: {machine!r}")
        return self._directory / f"{machine}.json"


def _bytes(binding: Binding) -> bytes:
    return binding.model_dump_json().encode()
