"""Puts together what browsers and agents of sandboxes need of the control plane, with the handoffs between them."""

from collections.abc import Sequence
from dataclasses import dataclass

from boxkeep_server.control.agents import Agents
from boxkeep_server.control.browsers import Browsers
from boxkeep_server.control.changes import Changes
from boxkeep_server.control.companions import Companions
from boxkeep_server.control.handoffs import DRIVE, Handoffs
from boxkeep_server.control.reconcile.attend import Attend
from boxkeep_server.control.reconcile.crowd import Crowd
from boxkeep_server.control.reconcile.drive import Drive
from boxkeep_server.control.reconcile.runner import Round
from boxkeep_server.control.reconcile.work import Work
from boxkeep_server.control.sandboxes import Sandboxes
from boxkeep_server.control.steps import ATTEND, WORK, Steps
from boxkeep_server.control.visits import Visits
from boxkeep_server.store.database import Database


@dataclass(frozen=True, slots=True)
class Accompanied:
    """The use cases, and what has to run beside them."""

    browsers: Browsers
    agents: Agents
    handoffs: Handoffs
    rounds: Sequence[Round]
    crowds: Sequence[Crowd]


def companions_over(
    database: Database, steps: Steps, changes: Changes, sandboxes: Sandboxes, visits: Visits, own: Visits
) -> Accompanied:
    """Companions over a store. `visits` are users', `own` are for our own purposes and keep no sandbox awake."""
    companions = Companions(database, steps, own)
    handoffs = Handoffs(database, steps, sandboxes)
    browsers = Browsers(sandboxes, companions, handoffs, visits)
    agents = Agents(database, steps, changes, sandboxes, companions, visits)
    attend = Attend(database, companions, lambda sandbox: (*browsers.wanted(sandbox), *agents.wanted(sandbox)))
    work = Work(database, steps, companions, agents, handoffs)
    drive = Drive(database, companions)
    rounds = (
        Round("attend", attend.run_once, 0.5, (ATTEND,)),
        Round("drive", drive.run_once, 0.5, (DRIVE,)),
        Round("work", work.run_once, 0.5, (WORK,)),
        Round("lapse", handoffs.expire_once, 0.5),
    )
    return Accompanied(browsers, agents, handoffs, rounds, (attend.crowd, drive.crowd, work.crowd))
