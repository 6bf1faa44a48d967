"""The one tree of settings: read once from a TOML file and the environment, passed on as plain values."""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, IPvAnyNetwork, field_validator

ENVIRONMENT_PREFIX = "BOXKEEP_"


class Section(BaseModel):
    """A part of the tree: immutable, and strict about names, so that a typing error is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ControlSettings(Section):
    """The control plane: HTTP API, lifecycle, limits, store."""

    listen: Annotated[str, Field(description="Address that the HTTP API listens on.")] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535, description="Port that the HTTP API listens on.")] = 7070
    public_url: Annotated[
        str | None, Field(description="URL by which clients reach the API; URLs handed out begin with it.")
    ] = None
    preview_port: Annotated[
        int, Field(ge=1, le=65535, description="Port that previews are served on, at the same address as the API.")
    ] = 7072
    preview_domain: Annotated[
        str,
        Field(
            pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$",
            description="What the host names of previews end with; `localhost` needs no DNS on the same machine.",
        ),
    ] = "localhost"
    preview_url: Annotated[
        str | None,
        Field(
            pattern=r"^https?://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?$",
            description="Where browsers reach previews if a server of yours stands before the gateway, such as "
            "`https://preview.example.com`: host names are then `<port>-<sandbox id>.preview.example.com`, whatever "
            "`preview_domain` says, and what it says in `X-Forwarded-For` is believed.",
        ),
    ] = None
    database: Annotated[
        str | None,
        Field(description="SQLAlchemy URL of the store; by default SQLite in the instance's directory."),
    ] = None
    rate_limits: Annotated[bool, Field(description="Whether calls are limited in rate per organisation.")] = True
    no_room_wait_ms: Annotated[
        int, Field(ge=0, description="How long a sandbox stays queued for a free slot before it fails, in ms.")
    ] = 60_000
    ended_kept_days: Annotated[int, Field(ge=0, description="How long ended sandboxes stay in lists, in days.")] = 30
    idempotency_kept_hours: Annotated[
        int, Field(ge=1, description="How long the answer to an Idempotency-Key is kept, in hours.")
    ] = 24
    at_hours_limit: Annotated[
        Literal["pause", "end"],
        Field(
            description="What becomes of running sandboxes when their organisation's hours of the month are used up."
        ),
    ] = "pause"
    webhook_networks: Annotated[
        tuple[IPvAnyNetwork, ...],
        Field(description="Networks that webhooks may reach besides the public internet, such as `10.1.2.0/24`."),
    ] = ()
    recording_file_s: Annotated[
        int,
        Field(
            ge=1,
            le=3600,
            description="How long a file of a browser's recording lasts, in seconds: what is lost at most when a "
            "machine dies.",
        ),
    ] = 120
    deliveries_kept_days: Annotated[
        int, Field(ge=2, description="How long deliveries of webhooks can be looked at and asked for again, in days.")
    ] = 7


class BlobSettings(Section):
    """Where artifacts and copies of snapshots are kept: a directory of the instance, or a bucket of S3 or its kin."""

    bucket: Annotated[
        str | None, Field(min_length=3, max_length=63, description="Bucket to keep blobs in; by default a directory.")
    ] = None
    prefix: Annotated[str | None, Field(description="What the keys in the bucket begin with.")] = None
    endpoint: Annotated[
        str | None, Field(pattern="^https?://", description="URL of the S3 service; by default that of the region.")
    ] = None
    region: Annotated[str | None, Field(description="Region of the bucket; by default the environment's.")] = None
    path_style: Annotated[bool, Field(description="Whether the bucket is named in the path, not in the host.")] = True
    access_key_id: Annotated[
        str | None, Field(description="Id of the access key; by default from the standard environment.")
    ] = None
    secret_access_key: Annotated[
        str | None, Field(repr=False, description="The access key; by default from the standard environment.")
    ] = None
    timeout_s: Annotated[float, Field(gt=0, description="How long one request to the bucket may take, in seconds.")] = (
        30.0
    )
    snapshots: Annotated[
        Literal["bucket", "always", "never"],
        Field(
            description="Whether snapshots of paused sandboxes and checkpoints are copied here, encrypted: by default "
            "to a bucket, not to a directory."
        ),
    ] = "bucket"
    artifacts_kept_days: Annotated[
        int, Field(ge=1, description="How long artifacts are kept after they were published, in days.")
    ] = 30


class NodeSettings(Section):
    """The node: images, disks, network, runtimes."""

    region: Annotated[str, Field(pattern="^[a-z]{3}$", description="Three-letter code of where this node is.")] = "loc"
    isolations: Annotated[
        tuple[Literal["runsc", "runc"], ...],
        Field(description="Isolations a user may ask for; the first that the host can do is the default."),
    ] = ("runsc", "runc")
    subnet: Annotated[
        str, Field(description="IPv4 network of the sandboxes; one /30 each. Must be the node's own.")
    ] = "10.213.0.0/16"
    disks: Annotated[
        Literal["pool", "directory"],
        Field(
            description="Where the disks of sandboxes lie: `pool`, a btrfs of their own in a file; or `directory`, a "
            "plain one, for hosts without btrfs or loop devices: then no sandbox's disk has a limit, and pauses, "
            "checkpoints and forks copy it where the file system does not share copies (XFS and btrfs do). To be "
            "chosen before anything is kept there."
        ),
    ] = "pool"
    disk_gib: Annotated[
        int | None,
        Field(
            ge=4,
            description="What the disk pool may grow to in GiB; by default half of what it has and the host has free, "
            "at most 200. It takes room from the host as it needs it, ahead of what is written, and keeps it.",
        ),
    ] = None
    machine_disk_gib: Annotated[int, Field(ge=1, description="Ceiling of one sandbox's disk in GiB, in a pool.")] = 10
    machine_memory_mib: Annotated[int, Field(ge=128, description="Ceiling of one sandbox's memory in MiB.")] = 4096
    machine_cpus: Annotated[float, Field(gt=0, description="Ceiling of one sandbox's processors, shared.")] = 2.0
    machine_pids: Annotated[
        int, Field(ge=64, description="Ceiling of one sandbox's processes under runc; a quarter under runsc.")
    ] = 4096
    slots: Annotated[
        int | None, Field(ge=0, description="Sandboxes at once; by default (memory - reserve) / 384 MiB.")
    ] = None
    warm: Annotated[dict[str, int], Field(description="Warm machines kept ready, by `image/isolation`.")] = Field(
        default_factory=dict
    )
    internet: Annotated[bool, Field(description="Whether sandboxes may reach the internet at all.")] = True
    images: Annotated[
        Path | None, Field(description="Where built images are kept; by default in the instance's directory.")
    ] = None
    capabilities: Annotated[
        tuple[Literal["documents", "browser", "opencode"], ...],
        Field(
            description="Capability software that images are built with: `documents`, `browser` (which brings "
            "documents too), `opencode`. `boxkeep images build` or `make up` builds what is missing; sandboxes that "
            "ask for none of it are made as without."
        ),
    ] = ()
    opened: Annotated[
        tuple[str, ...],
        Field(description="`address:port` pairs inside refused ranges that sandboxes may reach, as mirrors need."),
    ] = ()


class Settings(Section):
    """Everything an operator can set."""

    instance: Annotated[
        str,
        Field(
            pattern="^[a-z][a-z0-9]{0,7}$",
            description="Name of this installation; its directories, links, tables and cgroups carry it.",
        ),
    ] = "main"
    account: Annotated[str, Field(description="System account that the control plane runs as.")] = "boxkeep"
    lib_root: Annotated[Path, Field(description="Where data that outlives a reboot is kept.")] = Path(
        "/var/lib/boxkeep"
    )
    run_root: Annotated[Path, Field(description="Where sockets and state of this boot are kept.")] = Path(
        "/run/boxkeep"
    )
    log_root: Annotated[Path, Field(description="Where the services write their logs.")] = Path("/var/log/boxkeep")
    control: ControlSettings = ControlSettings()
    blobs: BlobSettings = BlobSettings()
    node: NodeSettings = NodeSettings()

    @field_validator("lib_root", "run_root", "log_root")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        if not path.is_absolute():
            raise ValueError("must be an absolute path")
        return path

    @property
    def lib(self) -> Path:
        """The instance's data directory."""
        return self.lib_root / self.instance

    @property
    def run(self) -> Path:
        """The instance's directory of this boot."""
        return self.run_root / self.instance

    @property
    def log(self) -> Path:
        """The instance's log directory."""
        return self.log_root / self.instance

    @property
    def node_socket(self) -> Path:
        """Where the node API listens."""
        return self.run / "node.sock"

    @property
    def images(self) -> Path:
        """Where built images are kept."""
        return self.node.images or self.lib / "images"

    @property
    def database_url(self) -> str:
        """The store's SQLAlchemy URL."""
        return self.control.database or f"sqlite+aiosqlite:///{self.lib / 'control' / 'boxkeep.sqlite3'}"

    @property
    def public_url(self) -> str:
        """The URL that URLs handed out begin with, without a slash at its end."""
        return (self.control.public_url or f"http://{self.control.listen}:{self.control.port}").rstrip("/")

    @property
    def preview_url(self) -> str:
        """The URL whose host the host names of previews end with."""
        return self.control.preview_url or f"http://{self.control.preview_domain}:{self.control.preview_port}"


def read_settings(file: Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings from `file` (TOML; absent means empty), overridden by `BOXKEEP_SECTION__NAME` variables.

    Values of the environment are read as TOML values where they parse as such, else as strings.

    Raises:
        pydantic.ValidationError: a name is unknown or a value is not allowed.
        tomllib.TOMLDecodeError: the file is not TOML.
    """
    tree: dict[str, Any] = {}
    if file is not None and file.exists():
        tree = tomllib.loads(file.read_text(encoding="utf-8"))
    for name, value in environment.items():
        if name.startswith(ENVIRONMENT_PREFIX) and name != f"{ENVIRONMENT_PREFIX}CONFIG":
            _put(tree, name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__"), _parsed(value))
    return Settings.model_validate(tree)


def _put(tree: dict[str, Any], path: list[str], value: object) -> None:
    *sections, leaf = path
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[leaf] = value


def _parsed(value: str) -> object:
    if not re.match(r"""^(true|false|[-+]?\d|\[|\{|"|')""", value):
        return value
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value
