"""Takes steps of sandboxes in transactions of their own, and tells of them once they are written."""

from collections.abc import Callable
from typing import Any, Final

from boxkeep_server.control.changes import Changes
from boxkeep_server.model.events import EventType
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.model.statuses import Status
from boxkeep_server.store import sandboxes
from boxkeep_server.store.database import Database

PLACE: Final = "reconcile:place"
PAUSE: Final = "reconcile:pause"
TAKE: Final = "reconcile:take"
DISCARD: Final = "reconcile:discard"
UPLOAD: Final = "reconcile:upload"
RELEASE: Final = "reconcile:release"
OBSERVE: Final = "reconcile:observe"
ATTEND: Final = "reconcile:attend"
EXTEND: Final = "reconcile:extend"
WORK: Final = "reconcile:work"
ANY: Final = "any"
SYSTEM: Final = "system"

_WAKES: Final = {
    Status.READY: (ATTEND,),
    Status.PAUSING: (PAUSE,),
    Status.PAUSED: (PLACE, UPLOAD),
    Status.ENDING: (RELEASE,),
    Status.ENDED: (PLACE,),
    Status.FAILED: (RELEASE, PLACE),
}
_EVENTS: Final = {
    Status.QUEUED: EventType.REQUEUED,
    Status.ASSIGNING: EventType.ASSIGNED,
    Status.READY: EventType.READY,
    Status.PAUSING: EventType.PAUSING,
    Status.PAUSED: EventType.PAUSED,
    Status.ENDING: EventType.ENDING,
    Status.ENDED: EventType.ENDED,
    Status.FAILED: EventType.FAILED,
}


class Steps:
    """The way in which control moves sandboxes."""

    def __init__(self, database: Database, changes: Changes, now_ms: Callable[[], int]) -> None:
        self._database = database
        self._changes = changes
        self.now_ms = now_ms

    async def step(self, before: Sandbox, after: Status, *, actor: str = SYSTEM, **changes: Any) -> Sandbox | None:
        """Move a sandbox that still is as `before`; the new record, None if something else moved it first."""
        async with self._database.writing() as connection:
            moved = await sandboxes.step(
                connection, before, after, event=_EVENTS[after], at=self.now_ms(), actor=actor, **changes
            )
        if moved is not None:
            self.tell(moved)
        return moved

    def tell(self, sandbox: Sandbox, *reconcilers: str) -> None:
        """Wake whoever waits for this sandbox or for such a step, and these reconcilers."""
        self._changes.tell(sandbox.id, ANY, *_WAKES.get(sandbox.status, ()), *reconcilers)

    def tell_of(self, sandbox_id: str) -> None:
        """Wake whoever waits for something of this sandbox that is no step."""
        self._changes.tell(sandbox_id, ANY)

    def wake(self, reconciler: str) -> None:
        """Have a reconciler look again."""
        self._changes.tell(reconciler)
