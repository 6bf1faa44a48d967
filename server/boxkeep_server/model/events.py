"""Events: one row for every step, written with it; everything that reports is read from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class EventType(StrEnum):
    """What happened."""

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
    ARTIFACTS_UPDATED = "sandbox.artifacts.updated"
    ARTIFACTS_MISSED = "sandbox.artifacts.missed"
    CHECKPOINT_CREATED = "sandbox.checkpoint.created"
    CHECKPOINT_RESTORED = "sandbox.checkpoint.restored"
    CHECKPOINT_DELETED = "sandbox.checkpoint.deleted"
    DOCUMENT_CONVERTED = "sandbox.document.converted"
    COMMAND_STARTED = "sandbox.command.started"
    COMMAND_ENDED = "sandbox.command.ended"
    TERMINAL_JOINED = "sandbox.terminal.joined"
    TERMINAL_LEFT = "sandbox.terminal.left"
    FILE_WRITTEN = "sandbox.file.written"
    FILE_MOVED = "sandbox.file.moved"
    FILE_REMOVED = "sandbox.file.removed"
    FILE_MODE = "sandbox.file.mode_changed"
    DIRECTORY_MADE = "sandbox.directory.made"
    AGENT_READY = "sandbox.agent.ready"
    AGENT_FAILED = "sandbox.agent.failed"
    TASK_QUEUED = "sandbox.agent.task.queued"
    TASK_COMPLETED = "sandbox.agent.task.completed"
    TASK_FAILED = "sandbox.agent.task.failed"
    BROWSER_READY = "sandbox.browser.ready"
    BROWSER_FAILED = "sandbox.browser.failed"
    HANDOFF_REQUESTED = "sandbox.handoff.requested"
    HANDOFF_ACCEPTED = "sandbox.handoff.accepted"
    HANDOFF_COMPLETED = "sandbox.handoff.completed"
    HANDOFF_CANCELLED = "sandbox.handoff.cancelled"
    HANDOFF_EXPIRED = "sandbox.handoff.expired"
    PORT_PUBLISHED = "sandbox.port.published"
    PORT_WITHDRAWN = "sandbox.port.withdrawn"
    LIMIT_WARNING = "sandbox.limit.warning"
    LIMIT_REACHED = "sandbox.limit.reached"


QUIET: Final = frozenset(
    {
        EventType.TERMINAL_JOINED,
        EventType.TERMINAL_LEFT,
        EventType.FILE_WRITTEN,
        EventType.FILE_MOVED,
        EventType.FILE_REMOVED,
        EventType.FILE_MODE,
        EventType.DIRECTORY_MADE,
    }
)
"""In the record alone: who watches state and activity is not told of each visit and each change of a file."""

INTERNAL: Final = QUIET | {
    EventType.PAUSING,
    EventType.REQUEUED,
    EventType.CHANGED,
    EventType.PORT_PUBLISHED,
    EventType.PORT_WITHDRAWN,
    EventType.COMMAND_STARTED,
    EventType.COMMAND_ENDED,
}
"""Sent to no webhook."""

PUBLIC: Final = frozenset(EventType) - INTERNAL
"""What webhooks are sent."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something that was done in a sandbox, to be written behind what happened before."""

    sandbox: str
    organisation: str
    type: EventType
    at: int
    actor: str
    data: Mapping[str, object] = field(default_factory=dict)


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
