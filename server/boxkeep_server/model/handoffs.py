"""Handoffs: a person takes a sandbox's browser over from its agent, and gives it back; the steps of one, pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from boxkeep_server.model.browsers import ControlMode
from boxkeep_server.model.errors import Conflict, NotFound

HandoffReason = Literal["mfa", "captcha", "approval", "login_failed", "ambiguous_ui", "file_download", "custom"]
Requester = Literal["agent", "worker", "sdk", "dashboard"]

USUAL_MS: Final = 10 * 60_000
LONGEST_MS: Final = 24 * 60 * 60_000


class HandoffStatus(StrEnum):
    """How a handoff is."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


STEPS: Final[Mapping[HandoffStatus, frozenset[HandoffStatus]]] = {
    HandoffStatus.PENDING: frozenset({HandoffStatus.ACCEPTED, HandoffStatus.CANCELLED, HandoffStatus.EXPIRED}),
    HandoffStatus.ACCEPTED: frozenset({HandoffStatus.COMPLETED, HandoffStatus.CANCELLED, HandoffStatus.EXPIRED}),
    HandoffStatus.COMPLETED: frozenset(),
    HandoffStatus.CANCELLED: frozenset(),
    HandoffStatus.EXPIRED: frozenset(),
}
OPEN: Final = frozenset({HandoffStatus.PENDING, HandoffStatus.ACCEPTED})


class HandoffNotFound(NotFound):
    """The sandbox has no such handoff."""

    def __init__(self) -> None:
        super().__init__("Handoff not found")


class HandoffConflict(Conflict):
    """The handoff's state forbids the wish."""


@dataclass(frozen=True, slots=True)
class Handoff:
    """A handoff of a sandbox. Times are epoch ms. `exclusive`: while a person drives, the agent may not even watch."""

    id: str
    sandbox: str
    organisation: str
    status: HandoffStatus
    reason: HandoffReason
    message: str
    requested_by: Requester
    exclusive: bool
    controller: str | None
    resume_prompt: str | None
    note: str | None
    requested_at: int
    accepted_at: int | None
    completed_at: int | None
    expires_at: int
    updated_at: int

    @property
    def open(self) -> bool:
        """Whether something may come of it yet."""
        return self.status in OPEN

    @property
    def mode(self) -> ControlMode:
        """Who drives the browser while this is the sandbox's latest handoff."""
        if self.status is not HandoffStatus.ACCEPTED:
            return "ai"
        return "human" if self.exclusive else "shared"


def mode_of(latest: Handoff | None) -> ControlMode:
    """Who drives a browser whose sandbox had that handoff last."""
    return "ai" if latest is None else latest.mode


def check_step(before: HandoffStatus, after: HandoffStatus) -> None:
    """Raise `HandoffConflict` where a handoff cannot go from one to the other."""
    if after not in STEPS[before]:
        verb = {"accepted": "accepted", "completed": "completed", "cancelled": "cancelled"}.get(after, "expired")
        raise HandoffConflict(f"The handoff is {before} and cannot be {verb}")
