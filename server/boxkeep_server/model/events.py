"""Events: one row for every step, written with it; everything that reports is read from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class EventType(StrEnum):
    """What happened. The public ones are those of the contract's webhooks."""

    CREATED = "sandbox.created"
    ASSIGNED = "sandbox.assigned"
    READY = "sandbox.ready"
    PAUSING = "sandbox.pausing"
    PAUSED = "sandbox.paused"
    RESUMED = "sandbox.resumed"
    REQUEUED = "sandbox.requeued"
    CHANGED = "sandbox.changed"
    ENDING = "sandbox.ending"
    ENDED = "sandbox.ended"
    FAILED = "sandbox.failed"
    COMMAND_STARTED = "sandbox.command.started"
    COMMAND_ENDED = "sandbox.command.ended"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. `sequence` counts within its sandbox from 1, without gaps; `id` orders all."""

    id: int
    sandbox: str
    organisation: str
    sequence: int
    type: EventType
    at: int
    actor: str
    data: Mapping[str, object] = field(default_factory=dict)
