"""Puts together what browsers of sandboxes and their handoffs need of the control plane."""

from collections.abc import Sequence
from dataclasses import dataclass

from boxkeep_server.control.browsers import Browsers
from boxkeep_server.control.companions import Companions
from boxkeep_server.control.handoffs import DRIVE, Handoffs
from boxkeep_server.control.reconcile.attend import Attend
from boxkeep_server.control.reconcile.crowd import Crowd
from boxkeep_server.control.reconcile.drive import Drive
from boxkeep_server.control.reconcile.runner import Round
from boxkeep_server.control.sandboxes import Sandboxes
from boxkeep_server.control.steps import ATTEND, Steps
from boxkeep_server.control.visits import Visits
from boxkeep_server.store.database import Database


@dataclass(frozen=True, slots=True)
class Browsing:
    """The use cases, and what has to run beside them."""

    browsers: Browsers
    handoffs: Handoffs
    rounds: Sequence[Round]
    crowds: Sequence[Crowd]


def browsing_over(database: Database, steps: Steps, sandboxes: Sandboxes, visits: Visits, own: Visits) -> Browsing:
    """Browsers over a store. `visits` are users', `own` are for our own purposes and keep no sandbox awake."""
    companions = Companions(database, steps, own)
    handoffs = Handoffs(database, steps, sandboxes)
    browsers = Browsers(sandboxes, companions, handoffs, visits)
    attend = Attend(database, companions, browsers.wanted)
    drive = Drive(database, companions, handoffs)
    rounds = (
        Round("attend", attend.run_once, 0.5, (ATTEND,)),
        Round("drive", drive.run_once, 0.5, (DRIVE,)),
        Round("lapse", handoffs.expire_once, 0.5),
    )
    return Browsing(browsers, handoffs, rounds, (attend.crowd, drive.crowd))
