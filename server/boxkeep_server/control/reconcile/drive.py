"""Drive: each browser is driven by whom its sandbox's handoff says, and has been told so."""

import logging
from functools import partial
from typing import Final

from boxkeep_server.control.companions import Companions
from boxkeep_server.control.handoffs import Handoffs
from boxkeep_server.control.reconcile.crowd import Crowd
from boxkeep_server.model.browsers import DRIVER, NAME, ControlMode
from boxkeep_server.model.errors import BoxkeepError
from boxkeep_server.model.handoffs import mode_of
from boxkeep_server.store import companions
from boxkeep_server.store.database import Database

AT_ONCE: Final = 100

_log = logging.getLogger(__name__)


class Drive:
    """Tells browsers whose state differs from what is written."""

    def __init__(self, database: Database, attending: Companions, handoffs: Handoffs) -> None:
        self._database = database
        self._companions = attending
        self._handoffs = handoffs
        self.crowd = Crowd(AT_ONCE)

    async def run_once(self) -> int:
        """Tell those that are to be told; how many."""
        async with self._database.reading() as connection:
            found = await companions.ready_with_handoffs(connection, NAME)
        late = [(one, mode_of(handoff)) for one, handoff in found if one.facts.get(DRIVER) != mode_of(handoff)]
        return sum(self.crowd.start(one.sandbox, partial(self._tell, one.sandbox, mode)) for one, mode in late)

    async def _tell(self, sandbox_id: str, mode: ControlMode) -> None:
        try:
            await self._companions.order_of(sandbox_id, NAME, do="hand_over", mode=mode)
        except BoxkeepError as error:  # tried again with the next round
            _log.warning("the browser of sandbox %s does not know yet that %s drives: %s", sandbox_id, mode, error)
