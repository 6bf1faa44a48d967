"""Last looks: what is ending is looked into before its machine is released, some at a time, and none for long."""

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

from boxkeep_server.control.reconcile.crowd import Crowd
from boxkeep_server.control.salvage import WITHIN_S, Salvage
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.model.statuses import Status

AT_ONCE: Final = 32
AT_ONCE_OF_ONE: Final = 4
"""Of one organisation: whose sandboxes stall holds up its own alone."""


class LastLooks:
    """Which ending sandboxes are being looked into, and which have been. `freed` is called when one has been.

    Who gets no turn within `WITHIN_S` is released without: a machine is no place to wait in.
    """

    def __init__(
        self, salvage: Salvage, freed: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._salvage = salvage
        self._over: set[tuple[str, int]] = set()
        self._since: dict[tuple[str, int], float] = {}
        self._of: Counter[str] = Counter()
        self.crowd = Crowd(AT_ONCE, freed)

    def __len__(self) -> int:
        """How many wait or are being looked into."""
        return len(self._since)

    def over(self, sandbox: Sandbox) -> bool:
        """Whether a sandbox may be released; if not, it is looked into as soon as there is a turn for it."""
        body = (sandbox.id, sandbox.epoch)
        if sandbox.status is not Status.ENDING or sandbox.started_at is None or sandbox.kept_epoch is not None:
            return True
        if body in self._over:
            return True
        now = self._clock()
        since = self._since.setdefault(body, now)
        if sandbox.id in self.crowd:
            return False
        if self._of[sandbox.organisation] < AT_ONCE_OF_ONE and self.crowd.start(
            sandbox.id, partial(self._look, sandbox)
        ):
            self._of[sandbox.organisation] += 1
            return False
        return now - since > WITHIN_S

    def forget(self, sandbox: Sandbox) -> None:
        """It is released."""
        body = (sandbox.id, sandbox.epoch)
        self._over.discard(body)
        self._since.pop(body, None)

    async def _look(self, sandbox: Sandbox) -> None:
        try:
            await self._salvage.run(sandbox)
        finally:
            self._of[sandbox.organisation] -= 1
            self._of += Counter()
            self._over.add((sandbox.id, sandbox.epoch))
            self._since.pop((sandbox.id, sandbox.epoch), None)
