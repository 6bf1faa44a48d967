"""What answers look like, for the OpenAPI document alone: answers are built by hand and tests hold them to these."""

from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel
from pydantic.alias_generators import to_camel

from boxkeep_server.model.agents import TaskReason, TaskStatus
from boxkeep_server.model.commands import Outcome
from boxkeep_server.model.events import EventType
from boxkeep_server.model.sandboxes import Runtime
from boxkeep_server.model.webhooks import DeliveryState, DisabledReason

Status = Literal["queued", "assigning", "ready", "active", "pausing", "paused", "ending", "ended", "failed"]


class Shape(BaseModel):
    """The form of an answer; clients must ignore fields that they do not know."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


MARK = "x-secret"
Secret = Annotated[str, Field(json_schema_extra={MARK: True})]
"""Text that carries a signed token: whoever has it may use it."""


@cache
def carries_token(shape: type[BaseModel]) -> bool:
    """Whether an answer of this shape carries a signed token."""
    return f"'{MARK}'" in repr(shape.model_json_schema())


class ErrorShape(Shape):
    """Every error."""

    model_config = ConfigDict(extra="allow")
    error: str = Field(description="A sentence that says what is wrong.")
    code: str | None = Field(default=None, description="A stable code, where there is one.")
    required_plan: str | None = Field(default=None, description="The lowest plan that has what was asked for.")
    current_plan: str | None = Field(default=None, description="The plan of the caller's organisation.")
    limit_ms: int | None = Field(default=None, description="The plan's limit, where a duration is over it.")
    limit_bytes: int | None = Field(default=None, description="The limit of the body, where that is too large.")
    detail: str | None = None
    request_id: str | None = Field(default=None, description="With a 500: the id under which it is in the log.")


class Ok(Shape):
    """Done."""

    ok: Literal[True]


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
    lost: str | None = Field(description="Why memory that was asked for is not there.")
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


class HandoffShape(Shape):
    """A handoff of a sandbox's browser to a person."""

    request_id: str
    status: Literal["pending", "accepted", "completed", "cancelled", "expired"]
    reason: Literal["mfa", "captcha", "approval", "login_failed", "ambiguous_ui", "file_download", "custom"]
    message: str
    requested_by: Literal["agent", "worker", "sdk", "dashboard"]
    exclusive: bool = Field(description="Whether the agent may not even watch while a person drives.")
    controller: str | None
    resume_prompt: str | None
    note: str | None
    requested_at: int
    accepted_at: int | None
    completed_at: int | None
    expires_at: int
    updated_at: int


ControlMode = Literal["ai", "shared", "human"]
BrowserStatus = Literal["starting", "ready", "failed"]


class BrowserPreviewShape(Shape):
    """How a sandbox's browser is, and who drives it."""

    status: BrowserStatus
    control_mode: ControlMode
    controller: str | None = Field(description="The person who drives, null while it is the agent.")
    updated_at: int


class BrowserShape(BrowserPreviewShape):
    """A sandbox's browser."""

    id: str
    reason: str | None = Field(description="Why it broke last, null while all is well.")
    cdp_url: Secret | None


class PairedBrowserShape(Shape):
    """A sandbox's browser, as a read of the sandbox shows it."""

    session_id: str
    cdp_url: Secret | None = Field(description="WebSocket of its protocol, to be opened within five minutes.")
    preview_url: Secret | None = Field(description="A page that shows its screen, read-only.")
    control_mode: ControlMode
    controller: str | None
    handoff_requested_at: int | None
    updated_at: int


class AgentShape(Shape):
    """A sandbox's agent."""

    enabled: bool
    status: Literal["starting", "ready", "failed"]
    reason: str | None = Field(description="Why it broke last, null while all is well.")
    default_agent: str | None
    allow_prompt_api: bool
    updated_at: int


class ChangedFileShape(Shape):
    """A file of the workspace that has changed while a task was worked on, whoever changed it."""

    path: str
    change: Literal["added", "modified", "removed"]


class TaskResultShape(Shape):
    """What has come of a task."""

    text: str | None = Field(description="The agent's last words, null where it failed.")
    files: list[ChangedFileShape]
    more_files: bool = Field(description="Whether more files have changed than are named.")
    tokens: dict[str, int] | None = Field(description="As counted by the model: input, output, reasoning, cache.")
    cost: float | None = Field(description="In US dollars, where opencode knows the model's price; else 0.")


class TaskShape(Shape):
    """Something that an agent was prompted to do."""

    task_id: str
    id: str
    status: TaskStatus
    prompt: str
    agent: str | None
    session_id: str | None = Field(description="The conversation that it belongs to; another prompt may go on with it.")
    metadata: dict[str, str]
    request_id: str | None = Field(description="The handoff whose `resumePrompt` this is.")
    result: TaskResultShape | None
    reason: TaskReason | None = Field(description="Why it failed.")
    message: str | None = Field(description="The sentence for it, where there is one.")
    timeout_ms: int | None
    created_at: int
    started_at: int | None
    ended_at: int | None
    duration_ms: int | None


class TasksShape(Shape):
    """A page of tasks; with `taskId` the fields of that task instead."""

    model_config = ConfigDict(extra="allow")
    items: list[TaskShape] | None = None
    next_cursor: str | None = None


class TaskEventShape(Shape):
    """The data of an event of a task. What else there is, `kind` says."""

    model_config = ConfigDict(extra="allow")
    task_id: str
    n: int | None = None
    at: int | None = None
    kind: str | None = None


class ViewerShape(Shape):
    """A page that shows a browser's screen."""

    id: str
    url: Secret
    read_only: bool
    expires_at: int


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


class RanShape(Shape):
    """How long a sandbox ran."""

    id: str
    running_ms: int


class MonthShape(Shape):
    """How long sandboxes ran in a month."""

    month: str
    running_ms: int


class DayShape(Shape):
    """How long sandboxes ran on a day."""

    day: str
    running_ms: int


class UsageShape(Shape):
    """What sandboxes have run within a stretch of time."""

    since: int
    until: int
    running_ms: int
    hours: str
    sandboxes_created: int
    sandboxes_run: int
    sandboxes: list[RanShape]
    next_cursor: str | None
    months: list[MonthShape]
    days: list[DayShape]


class PlanShape(Shape):
    """The limits of a plan; null is without one."""

    name: str
    max_duration_ms: int | None
    concurrent: int | None
    monthly_ms: int | None
    stored_bytes: int | None
    paused: int | None
    features: list[str]


class PeriodShape(Shape):
    """A month of UTC."""

    month: str
    start: int
    end: int


class BilledMonthShape(MonthShape):
    """What was used in a month."""

    hours: str


class BillingShape(Shape):
    """A plan, and what was used of it."""

    plan: PlanShape
    period: PeriodShape
    used_ms: int
    used_hours: str
    remaining_ms: int | None
    remaining_hours: str | None
    limit_reached: bool
    paused_sandboxes: int
    stored_bytes: int
    months: list[BilledMonthShape]


class ResultShape(Shape):
    """How a command ended, with the last MiB of what it wrote."""

    id: str
    process_id: str
    outcome: Outcome
    exit_code: int | None = Field(
        description="The exit status; 128+n when signal n ended it; null where there is none."
    )
    signal: int | None
    reason: str | None
    stdout: str
    stderr: str
    stdout_bytes: int
    stderr_bytes: int
    encoding: Literal["utf-8", "base64"]
    truncated: bool = Field(description="Whether there is more than the last MiB; read it by offset.")
    timed_out: bool
    duration_ms: int


class LaunchedShape(Shape):
    """A background command that runs."""

    id: str
    process_id: str


class ExecShape(RootModel[ResultShape | LaunchedShape]):
    """How a command ended; with `background` only its ids."""


class CommandEventShape(Shape):
    """The data of an event of a command that is watched.

    `start`: `id` and `processId`. `stdout`, `stderr`: `data` in `encoding`. `exit`: how it ended, as a result says it
    without the output. `error`: an error of the service after the start.
    """

    model_config = ConfigDict(extra="allow")
    id: str | None = None
    process_id: str | None = None
    data: str | None = None
    encoding: Literal["utf-8", "base64"] | None = None
    outcome: Outcome | None = None
    exit_code: int | None = None
    signal: int | None = None
    reason: str | None = None
    stdout_bytes: int | None = None
    stderr_bytes: int | None = None
    timed_out: bool | None = None
    duration_ms: int | None = None
    error: str | None = None


class ProcessShape(Shape):
    """A command, running or finished."""

    process_id: str
    kind: str
    command: str
    cwd: str
    user: str
    background: bool
    pty: bool
    state: Literal["running", "finished"]
    outcome: Outcome | None
    exit_code: int | None
    signal: int | None
    reason: str | None
    timeout_ms: int | None
    started_at: int
    ended_at: int | None
    duration_ms: int | None
    stdout_bytes: int | None
    stderr_bytes: int | None


class ProcessList(Shape):
    """Commands, newest first."""

    items: list[ProcessShape]
    next_cursor: str | None


class Written(Shape):
    """How much of stdin was taken."""

    written: int


class TerminalShape(Shape):
    """A terminal to connect to within five minutes."""

    id: str
    terminal_id: str
    terminal_url: Secret
    token: Secret
    expires_at: int


class EntryShape(Shape):
    """A file, directory or link; names that are not UTF-8 come as base64 instead."""

    name: str | None = None
    path: str | None = None
    type: Literal["file", "directory", "symlink", "other"]
    size: int
    mode: int
    modified_at: int
    uid: int | None = None
    gid: int | None = None
    target: str | None = None
    name_base64: str | None = None
    path_base64: str | None = None
    target_base64: str | None = None


class EntryAnswer(Shape):
    """One entry."""

    id: str
    entry: EntryShape


class EntryList(Shape):
    """What a directory holds."""

    path: str | None = None
    path_base64: str | None = None
    entries: list[EntryShape]


class FileContent(Shape):
    """A file's content."""

    path: str | None = None
    path_base64: str | None = None
    content: str
    encoding: Literal["utf-8", "base64"]
    size: int


class SignedUrl(Shape):
    """A URL that anyone may use until it expires."""

    url: Secret
    method: Literal["GET", "PUT"]
    expires_at: int


class ArtifactShape(Shape):
    """A file that outlives its sandbox."""

    key: str
    size: int
    content_type: str
    sha256: str
    created_at: int
    sandbox_id: str


class ConvertedShape(Shape):
    """A document that was converted."""

    path: str
    format: str
    size: int
    sha256: str
    duration_ms: int
    artifact: ArtifactShape | None


class ArtifactsShape(Shape):
    """What of a folder was published, and the paths of what was not."""

    items: list[ArtifactShape]
    skipped: list[str]


class PublishedShape(RootModel[ArtifactShape | ArtifactsShape]):
    """With `path` that artifact, without it those of the folder."""


class ArtifactList(Shape):
    """A page of artifacts; `nextCursor` is the last one's key."""

    items: list[ArtifactShape]
    next_cursor: str | None


class ArtifactUrl(Shape):
    """A URL by which anyone may download an artifact until it expires."""

    url: Secret
    expires_at: int


class WebhookShape(Shape):
    """Where events are sent."""

    id: str
    url: str
    description: str | None
    event_types: list[str] = Field(description="`*` alone for all.")
    enabled: bool
    disabled_reason: DisabledReason | None = Field(
        description="`failing`: nothing reached it for three days; `gone`: it answered 410."
    )
    disabled_at: int | None
    failing_since: int | None = Field(description="When its failures began, if nothing reached it since.")
    created_at: int


class NewWebhookShape(WebhookShape):
    """A webhook with its secret, which is shown now and never again."""

    signing_secret: Secret = Field(description="`whsec_` and base64, as Standard Webhooks has it.")


class WebhookList(Shape):
    """All webhooks, newest first."""

    items: list[WebhookShape]
    next_cursor: None


class WebhookOrList(RootModel[WebhookShape | WebhookList]):
    """With `id` that webhook, without it all."""


class DeliveryShape(Shape):
    """One message owed to one webhook, and what came of it."""

    id: str
    webhook_id: str
    message_id: str = Field(description="The header `webhook-id`: the same for every repetition.")
    type: str
    sandbox_id: str | None
    sequence: int | None
    state: DeliveryState
    attempts: int
    created_at: int
    last_attempt_at: int | None
    next_attempt_at: int | None
    delivered_at: int | None
    response_status: int | None = Field(description="What the receiver answered last, if it did.")
    error: str | None
    payload: dict[str, Any]


class DeliveryList(Shape):
    """Deliveries, newest first."""

    items: list[DeliveryShape]
    next_cursor: str | None


class AnyObject(Shape):
    """Some object."""

    model_config = ConfigDict(extra="allow")
