"""Puts together what browsers and agents of sandboxes need of the control plane, with handoffs and recordings."""

from collections.abc import Sequence
from dataclasses import dataclass

from boxkeep_server.blobs.interface import Blobs
from boxkeep_server.control.agents import Agents
from boxkeep_server.control.artifacts import Artifacts
from boxkeep_server.control.browsers import Browsers
from boxkeep_server.control.changes import Changes
from boxkeep_server.control.clocks import monotonic_ms
from boxkeep_server.control.companions import Companions
from boxkeep_server.control.files import Files
from boxkeep_server.control.handoffs import DRIVE, Handoffs
from boxkeep_server.control.reconcile.attend import Attend
from boxkeep_server.control.reconcile.crowd import Crowd
from boxkeep_server.control.reconcile.drive import Drive
from boxkeep_server.control.reconcile.link import Link
from boxkeep_server.control.reconcile.publish import Publish
from boxkeep_server.control.reconcile.runner import Round
from boxkeep_server.control.reconcile.work import Work
from boxkeep_server.control.record import Recorder
from boxkeep_server.control.recordings import Recordings
from boxkeep_server.control.salvage import Salvage
from boxkeep_server.control.sandboxes import Sandboxes
from boxkeep_server.control.secrets import Secrets
from boxkeep_server.control.steps import ATTEND, WORK, Steps
from boxkeep_server.control.strays import Strays
from boxkeep_server.control.visits import Visits
from boxkeep_server.model.browsers import NAME as BROWSER
from boxkeep_server.store.database import Database


@dataclass(frozen=True, slots=True)
class Accompanied:
    """The use cases, and what has to run beside them."""

    browsers: Browsers
    agents: Agents
    handoffs: Handoffs
    rounds: Sequence[Round]
    crowds: Sequence[Crowd]


@dataclass(frozen=True, slots=True)
class Publishing:
    """What is needed to publish files of sandboxes for our own purposes."""

    database: Database
    steps: Steps
    sandboxes: Sandboxes
    recorder: Recorder
    blobs: Blobs
    strays: Strays

    def artifacts(self, visits: Visits) -> Artifacts:
        """Artifacts of those sandboxes into which `visits` lead."""
        return Artifacts(self.database, self.steps, self.sandboxes, self._files(visits), self.blobs, self.strays)

    def recordings(self, visits: Visits) -> Recordings:
        """Recordings of their browsers."""
        there = visits.towards(BROWSER)
        return Recordings(self.database, self.steps, there, self._files(there), self.artifacts(there))

    def salvage(self, visits: Visits) -> Salvage:
        """The last look into sandboxes that are ending, into which `visits` lead."""
        return Salvage(self.database, self.steps, self.artifacts(visits), self.recordings(visits))

    def _files(self, visits: Visits) -> Files:
        return Files(visits, self.recorder, self.steps.now_ms)


def companions_over(
    publishing: Publishing, secrets: Secrets, changes: Changes, visits: Visits, own: Visits, recording_s: int
) -> Accompanied:
    """Companions over a store. `visits` are users', `own` are for our own purposes and keep no sandbox awake; a file of
    a recording is of `recording_s` seconds."""
    database, steps, sandboxes = publishing.database, publishing.steps, publishing.sandboxes
    companions = Companions(database, steps, own)
    handoffs = Handoffs(database, steps, sandboxes)
    browsers = Browsers(sandboxes, secrets, companions, handoffs, visits.towards(BROWSER), recording_s)
    agents = Agents(database, steps, changes, sandboxes, companions, visits)
    attend = Attend(database, companions, lambda sandbox: (*browsers.wanted(sandbox), *agents.wanted(sandbox)))
    drive = Drive(database, companions)
    link = Link(database, companions, own)
    work = Work(database, steps, companions, agents, handoffs, link.port)
    publish = Publish(database, publishing.recordings(own), monotonic_ms)
    rounds = (
        Round("attend", attend.run_once, 0.5, (ATTEND,)),
        Round("link", link.run_once, 0.5, (ATTEND,)),
        Round("drive", drive.run_once, 0.5, (DRIVE,)),
        Round("work", work.run_once, 0.5, (WORK,)),
        Round("publish", publish.run_once, 1.0),
        Round("lapse", handoffs.expire_once, 0.5),
    )
    crowds = (attend.crowd, link.crowd, drive.crowd, work.crowd, publish.crowd)
    return Accompanied(browsers, agents, handoffs, rounds, crowds)
