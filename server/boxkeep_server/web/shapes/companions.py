"""Answers about browsers, persons and agents."""

from typing import Literal

from pydantic import ConfigDict, Field

from boxkeep_server.model.agents import TaskReason, TaskStatus
from boxkeep_server.web.shapes.base import Secret, Shape


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
