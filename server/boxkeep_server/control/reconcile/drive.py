"""Drive: each browser is driven by whom its sandbox's handoff says, and has been told so."""

import logging
from functools import partial
from typing import Final

from boxkeep_server.control.companions import Companions
from boxkeep_server.control.reconcile.crowd import Crowd
from boxkeep_server.model.browsers import DRIVER, NAME, ControlMode
from boxkeep_server.model.errors import BoxkeepError
from boxkeep_server.model.handoffs import mode_of
from boxkeep_server.store import companions, handoffs
from boxkeep_server.store.database import Database

AT_ONCE: Final = 100

_log = logging.getLogger(__name__)


class Drive:
    """Tells browsers whose state differs from what is written."""

    def __init__(self, database: Database, attending: Companions) -> None:
        self._database = database
        self._companions = attending
        self.crowd = Crowd(AT_ONCE)

    async def run_once(self) -> int:
        """Tell those that are to be told; how many."""
        async with self._database.reading() as connection:
            found = await companions.ready(connection, NAME)
            last = await handoffs.latest_of(connection, [one.sandbox for one in found])
        modes = [(one, mode_of(last.get(one.sandbox))) for one in found]
        late = [(one, mode) for one, mode in modes if one.facts.get(DRIVER) != mode]
        return sum(self.crowd.start(one.sandbox, partial(self._tell, one.sandbox, mode)) for one, mode in late)

    async def _tell(self, sandbox_id: str, mode: ControlMode) -> None:
        try:
            await self._companions.order_of(sandbox_id, NAME, do="hand_over", mode=mode)
        except BoxkeepError as error:  # tried again with the next round
            _log.warning("the browser of sandbox %s does not know yet that %s drives: %s", sandbox_id, mode, error)
