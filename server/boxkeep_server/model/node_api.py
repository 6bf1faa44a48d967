"""The messages of the node API: all that the control plane and a node may say to each other."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator
from pydantic.alias_generators import to_camel

Id = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{32}$")]
Isolation = Literal["runsc", "runc"]
Role = Literal["main", "browser"]
BaseKind = Literal["layer", "image", "guest"]
ImageName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
Epoch = Annotated[int, Field(ge=1, lt=1 << 53)]
Millis = Annotated[int, Field(ge=0, lt=1 << 53)]
EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]

COPY_KEY_HEADER = "Boxkeep-Copy-Key"
"""Carries the key, in hexadecimals, that a copy of a snapshot is encrypted with."""

ENV_MOST = 128 << 10
"""Bytes of an environment's names and values together."""


class Message(BaseModel):
    """A message of the wire: camelCase, immutable, strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class NetworkWish(Message):
    """What a sandbox may reach: the internet, or only the networks of `allow`. Refused ranges stay refused."""

    internet: bool = True
    allow: Annotated[tuple[str, ...], Field(max_length=64)] | None = None


class ClaimWish(Message):
    """A machine wanted for one role of a sandbox in one epoch. `not_after` is epoch ms.

    The machine goes on from the snapshot of the epoch `resume` of the same sandbox and role, or from that of the same
    role at a `checkpoint`. With `fork` that is another sandbox's, and what names a machine is made anew. Without
    `memory` it goes on from the files of the snapshot alone.
    """

    sandbox: Id
    epoch: Epoch
    role: Role = "main"
    image: ImageName
    isolation: Isolation | None = None
    not_after: Millis
    hostname: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    env: dict[EnvName, str] = Field(default_factory=dict, repr=False)
    network: NetworkWish = NetworkWish()
    resume: Epoch | None = None
    checkpoint: Id | None = None
    fork: bool = False
    memory: bool = True

    @model_validator(mode="after")
    def _one_origin(self) -> "ClaimWish":
        if self.resume is not None and self.checkpoint is not None:
            raise ValueError("resume and checkpoint exclude each other")
        return self

    @property
    def origin(self) -> str | None:
        """The name of the snapshot that the machine is to go on from."""
        if self.checkpoint is not None:
            return checkpoint_name(self.checkpoint, self.role)
        return None if self.resume is None else pause_name(self.sandbox, self.resume, self.role)

    @field_validator("env")
    @classmethod
    def _bounded(cls, env: dict[str, str]) -> dict[str, str]:
        if any("\0" in value for value in env.values()):
            raise ValueError("a value has a null character")
        if sum(len(name.encode()) + len(value.encode()) for name, value in env.items()) > ENV_MOST:
            raise ValueError(f"more than {ENV_MOST} bytes in all")
        return env


class ClaimChange(Message):
    """A new end time for a machine, epoch ms."""

    not_after: Millis


class ClaimState(StrEnum):
    """Where a claimed machine is."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSING = "pausing"
    KEEPING = "keeping"
    DEAD = "dead"


class DeathReason(StrEnum):
    """Why a machine is dead."""

    EXITED = "exited"
    OUT_OF_MEMORY = "out_of_memory"
    HOST_MEMORY = "host_memory"
    EXPIRED = "expired"
    BOOT_FAILED = "boot_failed"
    HOST_RESTARTED = "host_restarted"
    DISK_LOST = "disk_lost"


class Claim(Message):
    """A bound machine as the node sees it. `secret` opens the guest wire at `address:port`."""

    sandbox: Id
    epoch: int
    role: Role
    machine: Id
    isolation: Isolation
    image: ImageName
    digest: str
    state: ClaimState
    reason: DeathReason | None = None
    address: str
    port: int
    secret: str = Field(repr=False)
    boot_id: str
    claimed_at: int
    not_after: int
    last_seen_at: int
    died_at: int | None = None
    oom_kills: int = 0
    memory_bytes: int | None = None
    cpu_ms: int | None = None


class Claims(Message):
    """Every claim of a node."""

    claims: tuple[Claim, ...]


class PauseWish(Message):
    """How a machine is to be paused: with `if_idle` only when nothing runs in it and nobody is being served; with
    `or_files` its files alone where its memory cannot be written."""

    if_idle: bool = False
    or_files: bool = False


class CheckpointWish(Message):
    """A checkpoint wanted of a machine, under an id that all machines of its sandbox share, which goes on after it;
    `memory`: of its processes too, where its isolation can."""

    checkpoint: Id
    memory: bool = False


def pause_name(sandbox: str, epoch: int, role: Role = "main") -> str:
    """What the snapshot is called that a pause leaves."""
    return f"{sandbox}-{epoch}-{role}"


def checkpoint_name(checkpoint: str, role: Role = "main") -> str:
    """What the snapshot of a role's machine is called at a checkpoint: by that's id alone where it is the main one."""
    return checkpoint if role == "main" else f"{checkpoint}-{role}"


class Snapshot(Message):
    """What is kept of a machine that was paused, or of one at a `checkpoint`: durable on its node, and whole.

    `keeps` says whether processes go on from it or files alone are there; `lost` why memory that could have been kept
    was not. `bytes` is what it refers to, much of which it may share with others. `stood_ms` is how long it took from
    the moment that nothing ran any more; at a checkpoint, until all ran again.
    """

    sandbox: Id
    epoch: int
    role: Role
    isolation: Isolation
    image: ImageName
    digest: str
    keeps: Literal["memory", "files"]
    lost: str | None = None
    bytes: int
    taken_at: int
    stood_ms: int
    checkpoint: Id | None = None

    @property
    def name(self) -> str:
        """What it is called among all snapshots."""
        if self.checkpoint is not None:
            return checkpoint_name(self.checkpoint, self.role)
        return pause_name(self.sandbox, self.epoch, self.role)


class Snapshots(Message):
    """Every snapshot of a node."""

    snapshots: tuple[Snapshot, ...]


class SnapshotBases(Message):
    """What a snapshot can only be gone on from with: the image under its disk, and the guest in its memory, if any."""

    image: str
    guest: str | None = None


class BaseHeld(Message):
    """Whether an image or a guest is on a node, ready to have machines made over it."""

    held: bool


class Discarded(Message):
    """How many snapshots were removed."""

    count: int


class Tail(Message):
    """The last 64 KiB of what an unfinished command wrote, base64."""

    stdout: str
    stderr: str


class Release(Message):
    """What is left to say of a machine that is gone."""

    last_seen_at: int | None = None
    died_at: int | None = None
    reason: DeathReason | None = None
    tails: dict[str, Tail] = Field(default_factory=dict)


class IsolationFacts(Message):
    """What an isolation can do on this node."""

    version: str
    pause_keeps: Literal["memory", "files"]


class NodeFacts(Message):
    """What a node is and can do, and how full it is."""

    node_id: Id
    boot_id: str
    region: str
    version: str
    isolations: dict[Isolation, IsolationFacts]
    default_isolation: Isolation
    images: dict[ImageName, str]
    slots: int
    slots_used: int
    warm: dict[str, int]
    disk_limit: bool
    admitting: bool


class ClaimHint(Message):
    """A claim changed; a hint only, the lists are the truth. All None: a heartbeat."""

    sandbox: Id | None = None
    epoch: int | None = None
    role: Role | None = None
    state: ClaimState | None = None
    reason: DeathReason | None = None


class LeakCount(Message):
    """Things of one kind that belong to nobody."""

    kind: str
    items: tuple[str, ...]


class Leaks(Message):
    """What belongs to nobody on this node."""

    leaks: tuple[LeakCount, ...]

    @property
    def total(self) -> int:
        """How many things there are in all."""
        return sum(len(leak.items) for leak in self.leaks)


RefusalCode = Literal[
    "bad_request",
    "forbidden",
    "not_found",
    "conflict",
    "released",
    "no_room",
    "not_ready",
    "busy",
    "no_space",
    "unfit",
    "unsupported",
    "internal",
]


class Refusal(Message):
    """An error of the node API."""

    error: str
    code: RefusalCode
