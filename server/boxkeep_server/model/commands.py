"""A command: something run in a sandbox by a call, and the one outcome that it ends in."""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How a command ended; each ends in exactly one."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    OUT_OF_MEMORY = "out_of_memory"
    SANDBOX_ENDED = "sandbox_ended"
    LOST_ON_FILES_PAUSE = "lost_on_files_pause"
    ROLLED_BACK = "rolled_back"


@dataclass(frozen=True, slots=True)
class Command:
    """What the store keeps of a command: never its environment, its input or its output, but the last 64 KiB of
    each stream where its sandbox died before it ended. Times are epoch ms of the host."""

    id: str
    sandbox: str
    organisation: str
    epoch: int
    kind: str
    line: str
    cwd: str
    user: str
    background: bool
    pty: bool
    timeout_ms: int | None
    started_at: int
    started_by: str
    ended_at: int | None = None
    outcome: Outcome | None = None
    exit_code: int | None = None
    signal: int | None = None
    reason: str | None = None
    stdout_bytes: int | None = None
    stderr_bytes: int | None = None
    stdout_tail: bytes | None = None
    stderr_tail: bytes | None = None
