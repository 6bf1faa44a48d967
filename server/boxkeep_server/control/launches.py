"""What is to be run and what came of it: pure values, and the decisions about them."""

import base64
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from boxkeep_server.control.inside import Process
from boxkeep_server.model.commands import Command, Outcome
from boxkeep_server.model.errors import TooLarge
from boxkeep_server.model.sandboxes import Reason, Sandbox
from boxkeep_server.store.commands import Ending

Kind = Literal["exec", "code", "terminal"]
Stream = Literal["stdout", "stderr"]
WORKSPACE = "/workspace"
LINE_SHOWN = 4096
TAIL = 1 << 20
INPUT_IN_REQUEST = 256 * 1024
REQUEST_MOST = (1 << 20) - 1024
SIGKILL = 9
KILLED_STATUS = 128 + SIGKILL


@dataclass(frozen=True, slots=True)
class Launch:
    """Something to be run. `args` None: `command` is a line for a shell. `line` is what lists show of it."""

    kind: Kind
    command: str
    args: tuple[str, ...] | None = None
    cwd: str | None = None
    user: str = "root"
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    stdin: bytes | None = field(default=None, repr=False)
    keep_stdin: bool = False
    timeout_ms: int | None = None
    background: bool = False
    pty: tuple[int, int] | None = None
    line: str | None = None

    @property
    def shown(self) -> str:
        """The line that lists show."""
        if self.line is not None:
            return self.line
        whole = self.command if self.args is None else shlex.join((self.command, *self.args))
        return whole[:LINE_SHOWN]

    @property
    def fed(self) -> bool:
        """Whether its input is too large for the request that starts it, and is sent beside."""
        return self.stdin is not None and len(self.stdin) > INPUT_IN_REQUEST

    def request(self, process_id: str, answer: str, tail: int = 0) -> dict[str, object]:
        """The guest wire's request that starts it.

        Raises:
            TooLarge: command, arguments and environment are more than one message holds.
        """
        request: dict[str, object] = {
            "op": "process.start",
            "id": process_id,
            "command": self.command,
            "args": None if self.args is None else list(self.args),
            "cwd": self.cwd,
            "env": dict(self.env),
            "user": self.user,
            "stdin": None if self.stdin is None or self.fed else base64.b64encode(self.stdin).decode(),
            "keepStdin": self.keep_stdin or self.fed,
            "timeoutMs": self.timeout_ms,
            "background": self.background,
            "pty": None if self.pty is None else {"rows": self.pty[0], "cols": self.pty[1]},
            "answer": answer,
            "tail": tail,
        }
        if len(json.dumps(request)) > REQUEST_MOST:
            raise TooLarge("Command, arguments and environment are too large together")
        return request

    def record(self, process_id: str, sandbox: Sandbox, key_id: str, now_ms: int) -> Command:
        """The record of it, begun now."""
        return Command(
            id=process_id,
            sandbox=sandbox.id,
            organisation=sandbox.organisation,
            epoch=sandbox.epoch,
            kind=self.kind,
            line=self.shown,
            cwd=self.cwd or WORKSPACE,
            user=self.user,
            background=self.background,
            pty=self.pty is not None,
            timeout_ms=self.timeout_ms,
            started_at=now_ms,
            started_by=key_id,
        )


@dataclass(frozen=True, slots=True)
class Result:
    """A command that has ended, with the end of what it wrote."""

    command: Command
    stdout: bytes
    stderr: bytes

    @property
    def truncated(self) -> bool:
        """Whether it wrote more than is here."""
        return (self.command.stdout_bytes or 0) > len(self.stdout) or (self.command.stderr_bytes or 0) > len(
            self.stderr
        )


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of what a command wrote while it was being watched."""

    stream: Stream
    data: bytes


def ending_of(command: Command, process: Process, oom_killed: bool, now_ms: int) -> Ending:
    """How a process that its guest calls finished ended; when it ended is the host's clock, bounded by it.

    A clock that was set back to before the process began bounds nothing.

    `oom_killed` says that the host's kernel killed something of this sandbox for memory since the last look.

    Raises:
        SandboxFault: the guest does not say how.
    """
    lasted_ms, most_ms = process.duration_ms or 0, now_ms - command.started_at
    if most_ms >= 0:
        lasted_ms = min(lasted_ms, most_ms)
    outcome, reason = process.ended_as, process.reason
    if oom_killed and may_be_oom(process):
        outcome, reason = Outcome.OUT_OF_MEMORY, "The kernel killed it when the sandbox's memory was used up"
    return Ending(
        id=command.id,
        ended_at=command.started_at + lasted_ms,
        outcome=outcome,
        exit_code=process.exit_code,
        signal=process.signal,
        reason=reason,
        stdout_bytes=process.stdout_bytes,
        stderr_bytes=process.stderr_bytes,
    )


def may_be_oom(process: Process) -> bool:
    """Whether the kernel's killer for memory can have been the end of it: it, or its shell's child, got SIGKILL."""
    match process.outcome:
        case "signalled":
            return process.signal == SIGKILL
        case "exited":
            return process.exit_code == KILLED_STATUS
        case _:
            return False


def outcome_under(reason: str | None) -> Outcome:
    """How the commands of a sandbox end that is over for `reason`. A host short of memory is no fault of theirs."""
    return Outcome.OUT_OF_MEMORY if reason == Reason.OUT_OF_MEMORY else Outcome.SANDBOX_ENDED


def ending_with(command: Command, sandbox: Sandbox | None, now_ms: int) -> Ending:
    """How a command ends whose sandbox ended under it."""
    reason = None if sandbox is None else sandbox.reason
    ended_at = now_ms if sandbox is None else sandbox.ended_at or now_ms
    return Ending(
        id=command.id,
        ended_at=max(command.started_at, min(now_ms, ended_at)),
        outcome=outcome_under(reason),
        reason=reason or "The sandbox ended",
    )
