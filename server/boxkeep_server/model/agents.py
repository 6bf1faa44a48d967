"""The AI agent of a sandbox, and its tasks: what is prompted, and the one end that each comes to; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from boxkeep_server.model.companions import CompanionState, without_nul
from boxkeep_server.model.events import EventType
from boxkeep_server.model.handoffs import Handoff

NAME: Final = "agent"
TASK: Final = "task"
ASK: Final = "ask"
"""What an agent says of itself: the task that it works on, and the question to a person that it waits with."""
OPEN_MOST: Final = 100
TRIES_MOST: Final = 3
EVENTS_MOST: Final = 3000
EVENTS_BYTES_MOST: Final = 4 << 20
TIMEOUT_MOST_MS: Final = 24 * 60 * 60_000


@dataclass(frozen=True, slots=True)
class AgentWish:
    """What a client has wished of a sandbox's agent. `prompts`: whether it takes them by the API."""

    default_agent: str | None
    prompts: bool


def agent_wish(capabilities: Mapping[str, object] | None) -> AgentWish | None:
    """The wish among a sandbox's capabilities, where it may be called `opencode` or `agent`; None where it has none."""
    for name in ("opencode", "agent"):
        wish = (capabilities or {}).get(name)
        if isinstance(wish, Mapping) and wish.get("enabled") is True:
            return AgentWish(wish.get("defaultAgent"), wish.get("allowPromptApi") is not False)
    return None


@dataclass(frozen=True, slots=True)
class Agent:
    """A sandbox's agent as it is now."""

    wish: AgentWish
    status: CompanionState
    reason: str | None
    updated_at: int


class TaskStatus(StrEnum):
    """How a task is."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


OPEN: Final = frozenset({TaskStatus.QUEUED, TaskStatus.RUNNING})


class TaskReason(StrEnum):
    """Why a task has failed."""

    AGENT = "agent_error"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    INTERRUPTED = "interrupted"
    ROLLED_BACK = "rolled_back"
    SANDBOX_ENDED = "sandbox_ended"


Short = Annotated[str, Field(max_length=200)]
Long = Annotated[str, Field(max_length=64 << 10), AfterValidator(without_nul)]
Count = Annotated[int, Field(ge=0, lt=1 << 53)]


class _Heard(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, alias_generator=to_camel)


class ChangedFile(_Heard):
    """A file of the workspace that has changed."""

    path: Annotated[str, Field(max_length=4096)]
    change: Literal["added", "modified", "removed"]


class Told(_Heard):
    """What an agent tells of a task: the `n`th thing, from 0."""

    task: Short
    n: Count
    kind: Literal["started", "text", "tool", "retry", "asked", "interrupted", "completed", "failed"]
    session: Annotated[str, Field(pattern=r"^ses_[A-Za-z0-9]{1,64}$")] | None = None
    text: Long | None = None
    tool: Short | None = None
    state: Short | None = None
    call: Short | None = None
    title: Annotated[str, Field(max_length=1000)] | None = None
    input: Long | None = None
    output: Long | None = None
    tokens: Annotated[dict[Annotated[str, Field(max_length=32)], Count], Field(max_length=8)] | None = None
    cost: Annotated[float, Field(ge=0, lt=1e9)] | None = None
    files: Annotated[list[ChangedFile], Field(max_length=1000)] | None = None
    more_files: bool | None = None
    ask: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None
    why: Short | None = None

    def data(self) -> dict[str, Any]:
        """It as a client sees it."""
        return self.model_dump(by_alias=True, exclude_none=True, exclude={"task", "n", "kind"})


def read_told(about: object) -> Told | None:
    """What an agent has told; None for what is not understood."""
    try:
        return Told.model_validate(about)
    except ValidationError:
        return None


@dataclass(frozen=True, slots=True)
class Task:
    """A task of a sandbox's agent. Times are epoch ms.

    `told` is the number of the next thing that its agent tells of it, `tries` how often it has begun, `ask` the latest
    question of it to a person, `handoff` the one whose completion has prompted it. `result` is there once it is
    completed, and of what failed as far as there is any; `reason` and `message` say why it failed.
    """

    id: str
    sandbox: str
    organisation: str
    created_by: str
    status: TaskStatus
    prompt: str
    agent: str | None
    session: str | None
    metadata: Mapping[str, str] | None
    handoff: str | None
    timeout_ms: int | None
    created_at: int
    started_at: int | None = None
    ended_at: int | None = None
    reason: TaskReason | None = None
    message: str | None = None
    result: Mapping[str, Any] | None = None
    ask: Mapping[str, str] | None = None
    tries: int = 0
    told: int = 0
    told_bytes: int = 0

    @property
    def open(self) -> bool:
        """Whether it has not come to its end."""
        return self.status in OPEN

    def late(self, now: int) -> bool:
        """Whether it has run for longer than it may."""
        if self.timeout_ms is None or self.started_at is None or not self.open:
            return False
        return now >= self.started_at + self.timeout_ms

    def failed(self, reason: TaskReason, at: int, message: str | None = None) -> "Task":
        """It with that end."""
        return replace(self, status=TaskStatus.FAILED, reason=reason, message=message, ended_at=at)

    def heard(self, told: Told, at: int) -> "Task":
        """It after its agent has told something more of it."""
        one = replace(self, told=told.n + 1)
        match told.kind:
            case "started":
                began = self.started_at if self.started_at is not None else at
                session = told.session or self.session
                return replace(one, status=TaskStatus.RUNNING, session=session, started_at=began, tries=self.tries + 1)
            case "asked" if told.ask is not None:
                return replace(one, ask={"id": told.ask, "reason": told.why or "custom", "message": told.text or ""})
            case "completed":
                return replace(one, status=TaskStatus.COMPLETED, result=_result(told), ended_at=at)
            case "failed":
                return replace(one.failed(TaskReason.AGENT, at, told.text), result=_result(told))
        return one


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """Something that happened in a task: the `n`th thing."""

    task: str
    n: int
    at: int
    kind: str
    data: Mapping[str, Any] = field(default_factory=dict)


EVENTS: Final = {
    TaskStatus.QUEUED: EventType.TASK_QUEUED,
    TaskStatus.COMPLETED: EventType.TASK_COMPLETED,
    TaskStatus.FAILED: EventType.TASK_FAILED,
}


def _result(told: Told) -> Mapping[str, Any]:
    files = [file.model_dump(by_alias=True) for file in told.files or ()]
    return {
        "text": told.text if told.kind == "completed" else None,
        "files": files,
        "moreFiles": told.more_files is True,
        "tokens": told.tokens,
        "cost": told.cost,
    }


def resumed(handoff: Handoff, session: str | None, task_id: str, actor: str) -> Task:
    """The task by which an agent goes on, in that session, after a handoff that was completed with a prompt for it."""
    return Task(
        id=task_id,
        sandbox=handoff.sandbox,
        organisation=handoff.organisation,
        created_by=actor,
        status=TaskStatus.QUEUED,
        prompt=handoff.resume_prompt or "",
        agent=None,
        session=session,
        metadata=None,
        handoff=handoff.id,
        timeout_ms=None,
        created_at=handoff.updated_at,
    )


def next_of(tasks: Sequence[Task]) -> Task | None:
    """Which of a sandbox's tasks is to be worked on: what has begun before what has not, else the oldest."""
    waiting = [one for one in tasks if one.open]
    return min(waiting, key=lambda one: (one.status is not TaskStatus.RUNNING, one.created_at, one.id), default=None)
