"""The lifecycle of a sandbox: its statuses and the one table of legal steps."""

from enum import StrEnum


class Status(StrEnum):
    """Where a sandbox is in its life. `active` is not one: it is what a read shows of a busy `ready` sandbox."""

    QUEUED = "queued"
    ASSIGNING = "assigning"
    READY = "ready"
    PAUSING = "pausing"
    PAUSED = "paused"
    ENDING = "ending"
    ENDED = "ended"
    FAILED = "failed"


ACTIVE = "active"

STEPS: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.ASSIGNING, Status.ENDING, Status.PAUSED, Status.FAILED}),
    Status.ASSIGNING: frozenset({Status.READY, Status.QUEUED, Status.ENDING, Status.PAUSED, Status.FAILED}),
    Status.READY: frozenset({Status.PAUSING, Status.ENDING, Status.FAILED}),
    Status.PAUSING: frozenset({Status.PAUSED, Status.READY, Status.ENDING, Status.FAILED}),
    Status.PAUSED: frozenset({Status.QUEUED, Status.ENDING, Status.FAILED}),
    Status.ENDING: frozenset({Status.ENDED}),
    Status.ENDED: frozenset(),
    Status.FAILED: frozenset(),
}
"""From each status, where it may go. `queued`/`assigning` → `paused` is a resume that failed; `assigning` → `queued` a
placement that was lost before the machine was ready."""

COUNTED = frozenset({Status.QUEUED, Status.ASSIGNING, Status.READY, Status.PAUSING})
"""What the plan's concurrency counts: `ending` has freed the user's slot already."""

OVER = frozenset({Status.ENDED, Status.FAILED})
"""Statuses that nothing leaves."""


class IllegalStep(AssertionError):
    """A step that is not in the table: a bug of ours, never a user's fault."""


def check_step(before: Status, after: Status) -> None:
    """Raise `IllegalStep` unless the table allows it."""
    if after not in STEPS[before]:
        raise IllegalStep(f"{before} → {after} is not a legal step")
