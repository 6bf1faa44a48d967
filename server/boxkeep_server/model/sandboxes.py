"""A sandbox: what a user wishes, the record the store keeps of it, and pure decisions about its time."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from boxkeep_server.model.machines import MAIN, Key
from boxkeep_server.model.node_api import Role
from boxkeep_server.model.statuses import Status

Runtime = Literal["bun", "python", "base"]
DEFAULT_RUNTIME: Runtime = "bun"
RUNTIMES: tuple[Runtime, ...] = ("bun", "python", "base")
SIZE = "standard"
ENV_BYTES = 128 * 1024
METADATA_BYTES = 16 * 1024


class Reason(StrEnum):
    """Why a sandbox failed, ended or was paused: machine-readable, shown as `reason`."""

    USER_REQUEST = "user_request"
    MAX_DURATION = "max_duration"
    NO_CAPACITY = "no_capacity"
    OUT_OF_MEMORY = "out_of_memory"
    HOST_MEMORY = "host_memory"
    MACHINE_DIED = "machine_died"
    BOOT_FAILED = "boot_failed"
    NODE_RESTARTED = "node_restarted"
    NODE_LOST = "node_lost"
    DISK_LOST = "disk_lost"
    HOURS_LIMIT = "monthly_hours_limit"
    OPERATOR_SHUTDOWN = "operator_shutdown"
    UNSUPPORTED = "unsupported"
    IDLE = "idle"
    NO_SPACE = "no_space"
    PAUSE_FAILED = "pause_failed"
    MEMORY_LOST = "memory_lost"
    SNAPSHOT_UNFIT = "snapshot_unfit"
    STORE_AWAY = "store_away"
    RESTORE = "restore"


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """What a sandbox may reach: everything public, nothing, or only the networks of `allow` (CIDR)."""

    internet: bool = True
    allow: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """What a sandbox does by itself: at the end of its time, after `idle_pause_ms` in which nothing runs and nobody
    calls, and when somebody calls while it is paused."""

    on_expiry: Literal["end", "pause"] = "end"
    idle_pause_ms: int | None = None
    auto_resume: bool = False


@dataclass(frozen=True, slots=True)
class NewSandbox:
    """A user's wish for a sandbox, validated in form. None means: the default. `proxy_url` is that of the proxy of its
    browser where it has a password, which `capabilities` are without. Without `memory` it begins with the files of its
    checkpoint alone."""

    runtime: Runtime | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    ephemeral: bool = True
    max_duration_ms: int | None = None
    region: str | None = None
    capabilities: Mapping[str, object] | None = None
    name: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    isolation: Literal["runsc", "runc"] | None = None
    network: NetworkPolicy = NetworkPolicy()
    lifecycle: Lifecycle = Lifecycle()
    from_checkpoint: str | None = None
    memory: bool = True
    proxy_url: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What the store keeps of a sandbox. Times are epoch ms; `revision` grows with every change of the row.

    `epoch` counts the bodies it has had: it is raised each time a machine is asked for. `node`, `isolation`,
    `pause_keeps` and `disk_limit` (whether its disk stops at its ceiling) are those of the body it has or had last.

    `image` is what its bodies begin from: its runtime, with the software that its capabilities need.

    `from_checkpoint` is the checkpoint that it began from; `origin` the one that its next body goes on from, None where
    that is the snapshot of `kept_epoch` or nothing.

    `files_only` is set while it is to get a body that goes on from files alone, whatever else there is.

    `kept_epoch` is the epoch of the snapshot that it goes on from when it gets its next body, None where it has none;
    `remaining_ms` how long it may run then, where that is not a window anew. `stored_epoch` is the last of which there
    are copies in the store of blobs, of all machines.

    `sides` are the roles of the machines that it has beside the main one, each with the epoch of the one that it has
    or had last: that counts for itself, for they are had anew when they die, and the sandbox goes on. `kept_sides` are
    those of which there is a snapshot beside that of `kept_epoch`, each with its epoch.
    """

    id: str
    organisation: str
    status: Status
    revision: int
    epoch: int
    runtime: Runtime
    image: str
    ephemeral: bool
    max_duration_ms: int
    region: str | None
    wished_region: str | None
    wished_isolation: Literal["runsc", "runc"] | None
    isolation: Literal["runsc", "runc"] | None
    pause_keeps: Literal["memory", "files"] | None
    capabilities: Mapping[str, object] | None
    network: NetworkPolicy
    name: str | None
    metadata: Mapping[str, str]
    env_names: tuple[str, ...]
    node: str | None
    created_at: int
    queued_at: int
    started_at: int | None
    ready_at: int | None
    expires_at: int | None
    ended_at: int | None
    billed_ms: int
    reason: str | None
    created_by: str
    kept_epoch: int | None = None
    kept_bytes: int | None = None
    paused_at: int | None = None
    remaining_ms: int | None = None
    lifecycle: Lifecycle = Lifecycle()
    from_checkpoint: str | None = None
    origin: str | None = None
    stored_epoch: int | None = None
    sides: Mapping[Role, int] = field(default_factory=dict)
    kept_sides: Mapping[Role, int] = field(default_factory=dict)
    disk_limit: bool | None = None
    files_only: bool = False

    @property
    def machines(self) -> tuple[Key, ...]:
        """What its machines are bound to, the main one first."""
        return Key(self.id, self.epoch), *(Key(self.id, epoch, role) for role, epoch in self.sides.items())

    @property
    def kept(self) -> tuple[Key, ...]:
        """What of it is kept as snapshots that it goes on from, the main machine's first."""
        if self.kept_epoch is None:
            return ()
        sides = (Key(self.id, epoch, role) for role, epoch in self.kept_sides.items())
        return Key(self.id, self.kept_epoch), *sides

    def role_for(self, name: str) -> Role:
        """In which of its machines what is called so runs: in that of its own name, if there is one, else in the main
        one."""
        return next((role for role in self.sides if role == name), MAIN)

    @property
    def kept_in_store(self) -> bool:
        """Whether what it goes on from would outlive the loss of its node."""
        return self.kept_epoch is not None and self.kept_epoch == self.stored_epoch

    @property
    def window_ms(self) -> int:
        """How long it may run once it is ready."""
        return self.max_duration_ms if self.remaining_ms is None else self.remaining_ms

    @property
    def running(self) -> bool:
        """Whether its machine takes calls."""
        return self.status is Status.READY
