"""Answers about commands, processes and terminals."""

from typing import Literal

from pydantic import ConfigDict, Field, RootModel

from boxkeep_server.model.commands import Outcome
from boxkeep_server.web.shapes.base import Secret, Shape


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


class TerminalShape(Shape):
    """A terminal to connect to within five minutes."""

    id: str
    terminal_id: str
    terminal_url: Secret
    token: Secret
    expires_at: int
