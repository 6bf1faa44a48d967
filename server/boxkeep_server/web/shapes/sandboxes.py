"""Answers about sandboxes, their checkpoints, ports and events."""

from typing import Any, Literal

from pydantic import Field, RootModel

from boxkeep_server.model.events import EventType
from boxkeep_server.model.sandboxes import Runtime
from boxkeep_server.web.shapes.base import Secret, Shape
from boxkeep_server.web.shapes.companions import AgentShape, BrowserPreviewShape, HandoffShape, PairedBrowserShape

Status = Literal["queued", "assigning", "ready", "active", "pausing", "paused", "ending", "ended", "failed"]


class CreatedShape(Shape):
    """A sandbox just accepted."""

    id: str
    status: Status
    runtime: Runtime
    size: Literal["standard"]
    capabilities: dict[str, Any] | None


class ForksShape(Shape):
    """Sandboxes just accepted, all from one checkpoint."""

    items: list[CreatedShape]


class CreatedOrForks(RootModel[CreatedShape | ForksShape]):
    """The sandbox; with `count` all that were made."""


class PortShape(Shape):
    """A port of a sandbox."""

    port: int
    listening: bool = Field(description="Whether a program takes connections on it now.")
    addresses: list[str] = Field(description="Where inside it listens.")
    pid: int | None = Field(description="The process that listens, where that can be known.")
    process: str | None = Field(description="Its name.")
    public: bool = Field(description="Whether everybody may open it without a token.")
    url: str = Field(
        description="Where it is reached, by who has a cookie or a token, or by everybody if it is public."
    )
    signed_url: Secret | None = Field(
        description="The same with a token, good for five minutes; null unless the key may exec."
    )
    token: Secret | None = Field(description="That token, for the header `X-Boxkeep-Token`.")
    expires_at: int | None = Field(description="When the token expires.")


class PortList(Shape):
    """What listens in a sandbox, and its public ports."""

    id: str
    ports: list[PortShape]


class PublicPortShape(Shape):
    """Whether a port is public."""

    id: str
    port: int
    public: bool
    url: str


class CheckpointShape(Shape):
    """A checkpoint."""

    id: str
    sandbox_id: str
    name: str | None
    keeps: Literal["memory", "files"]
    lost: str | None = Field(description="What was asked for and is not there, and why.")
    runtime: Runtime
    isolation: Literal["runsc", "runc"]
    bytes: int = Field(description="What it refers to, much of which it may share with others.")
    stopped_ms: int = Field(description="How long the sandbox stood still for it.")
    durability: Literal["node", "store"] = Field(description="Where it is durable.")
    created_at: int


class CheckpointList(Shape):
    """A page of checkpoints."""

    items: list[CheckpointShape]
    next_cursor: str | None


class ListedShape(Shape):
    """A sandbox in a list."""

    id: str
    status: Status
    runtime: Runtime
    size: Literal["standard"]
    region: str | None
    created_at: int
    started_at: int | None
    ended_at: int | None
    expires_at: int | None = Field(description="When it ends by itself; null while it does not run.")
    duration: int | None = Field(description="Billed ms; null until it has ended.")
    isolation: Literal["runsc", "runc"] | None
    ephemeral: bool
    name: str | None
    metadata: dict[str, str]
    reason: str | None = Field(description="Why it failed, ended or was paused.")


class LifecycleShape(Shape):
    """What a sandbox does by itself."""

    on_expiry: Literal["end", "pause"]
    idle_pause_ms: int | None
    auto_resume: bool


class KeptShape(Shape):
    """What there is of a sandbox's artifacts."""

    count: int
    bytes: int
    updated_at: int


class SandboxShape(ListedShape):
    """A sandbox."""

    terminal_url: Secret | None = Field(
        description="WebSocket of a new terminal, good for five minutes; null unless it is ready and the key may exec."
    )
    preview_base_url: str | None = Field(
        description="URL of a port of the sandbox once `{port}` in it is filled in; null while it is not running. "
        "`GET /v1/sandboxes/ports` has those that open."
    )
    capabilities: dict[str, Any] | None
    paired_browser: PairedBrowserShape | None = Field(description="Null where there is none, or it does not run.")
    opencode: AgentShape | None = Field(description="The agent, while the sandbox runs and has one.")
    browser_preview: BrowserPreviewShape | None
    human_handoff: HandoffShape | None = Field(description="The latest, while there is a browser that runs.")
    artifacts: KeptShape | None = Field(description="What was published of it; null where nothing is kept.")
    pause_keeps: Literal["memory", "files"] | None = Field(
        description="What a pause keeps, or kept: processes with their memory, or files alone."
    )
    disk_limit: bool | None = Field(
        description="Whether its disk stops at its ceiling. Where it does not, on hosts without btrfs, it may grow "
        "until the node's disk is full for everybody there. Null before it was ready."
    )
    pause_durability: Literal["node", "store"] | None = Field(
        description="Where what is kept of a paused sandbox is durable; null unless it is paused."
    )
    paused_at: int | None
    from_checkpoint: str | None = Field(description="The checkpoint that it began from.")
    lifecycle: LifecycleShape
    env_names: list[str]


class SandboxList(Shape):
    """A page of sandboxes."""

    items: list[ListedShape]
    next_cursor: str | None


class SandboxOrList(RootModel[SandboxShape | SandboxList]):
    """With `id` that sandbox, without it a page of all."""


class EventShape(Shape):
    """The data of a server-sent event."""

    type: EventType
    id: str
    sequence: int
    at: int
    data: dict[str, Any]


class HappeningShape(Shape):
    """One thing that happened in or to a sandbox."""

    sequence: int
    at: int
    type: EventType
    actor: str
    data: dict[str, Any]


class TimelineShape(Shape):
    """A page of a timeline; `nextAfter` is where the next one begins, null at the end."""

    items: list[HappeningShape]
    next_after: int | None
