"""Puts the control plane together: what the API answers with, and what has to run beside it."""

import asyncio
import random
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from boxkeep_server.blobs.chosen import blobs_of, snapshots_copied
from boxkeep_server.compose_companions import Publishing, companions_over
from boxkeep_server.control.changes import Changes
from boxkeep_server.control.checkpoints import Checkpoints
from boxkeep_server.control.clocks import boot_id, monotonic_ms
from boxkeep_server.control.commands import Commands
from boxkeep_server.control.copies import Copies
from boxkeep_server.control.documents import Documents
from boxkeep_server.control.files import Files
from boxkeep_server.control.fleet import Fleet
from boxkeep_server.control.idempotency import Idempotency
from boxkeep_server.control.keys import Keys
from boxkeep_server.control.liveness import Liveness
from boxkeep_server.control.machines import Wishes
from boxkeep_server.control.pausing import Pausing
from boxkeep_server.control.presence import Attendance
from boxkeep_server.control.previews import Previews
from boxkeep_server.control.processes import Processes
from boxkeep_server.control.rates import Rates
from boxkeep_server.control.reach import LastLook, Reacher
from boxkeep_server.control.reconcile import runner
from boxkeep_server.control.reconcile.collect import Collect
from boxkeep_server.control.reconcile.count import Count
from boxkeep_server.control.reconcile.crowd import Crowd
from boxkeep_server.control.reconcile.deliver import Deliver
from boxkeep_server.control.reconcile.discard import Discard
from boxkeep_server.control.reconcile.expire import Expire
from boxkeep_server.control.reconcile.extend import Extend
from boxkeep_server.control.reconcile.follow import Follow
from boxkeep_server.control.reconcile.idle import Idle
from boxkeep_server.control.reconcile.mend import Mend
from boxkeep_server.control.reconcile.observe import Observe
from boxkeep_server.control.reconcile.pause import Pause
from boxkeep_server.control.reconcile.place import Place
from boxkeep_server.control.reconcile.release import Release
from boxkeep_server.control.reconcile.retire import Retire
from boxkeep_server.control.reconcile.runner import Round
from boxkeep_server.control.reconcile.take import Take
from boxkeep_server.control.reconcile.upload import Upload
from boxkeep_server.control.reconcile.warn import Warn
from boxkeep_server.control.record import Recorder
from boxkeep_server.control.sandboxes import Sandboxes
from boxkeep_server.control.secrets import Secrets
from boxkeep_server.control.settle import Settler
from boxkeep_server.control.steps import (
    ANY,
    DISCARD,
    EXTEND,
    OBSERVE,
    PAUSE,
    PLACE,
    RELEASE,
    TAKE,
    UPLOAD,
    Steps,
)
from boxkeep_server.control.strays import Strays
from boxkeep_server.control.terminals import Terminals
from boxkeep_server.control.usage import Accounts
from boxkeep_server.control.visits import Visits
from boxkeep_server.control.webhooks import DELIVER, Webhooks
from boxkeep_server.engine.interface import Engine, EngineError
from boxkeep_server.guestwire import GuestPool
from boxkeep_server.model.clocks import SteadyClock
from boxkeep_server.model.errors import NotReady, Unavailable
from boxkeep_server.model.ids import new_id
from boxkeep_server.model.node_api import ClaimState
from boxkeep_server.model.previews import PreviewUrls
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.model.statuses import Status
from boxkeep_server.outbound.addresses import Reach
from boxkeep_server.outbound.post import Lookup, Poster
from boxkeep_server.settings import Settings
from boxkeep_server.store import organisations
from boxkeep_server.store.commands import CommandRows
from boxkeep_server.store.database import Database
from boxkeep_server.store.sealing import Seal, derived, key_file
from boxkeep_server.web.metrics import Metrics
from boxkeep_server.web.parts import Parts
from boxkeep_server.web.tokens import Tokens

HOUR_MS = 3_600_000
WATCH_AGAIN_S = 1.0
FOLLOW_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A composed control plane: the parts that the API answers with, and what has to run beside it."""

    parts: Parts
    sandboxes: Sandboxes
    rounds: Sequence[Round]
    changes: Changes
    crowds: Sequence[Crowd]
    copies: Copies
    engine: Engine
    recorder: Recorder
    settler: Settler
    livenesses: Sequence[Liveness]

    async def run(self) -> None:
        """Bring about what is wanted, for ever."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(runner.run(self.rounds, self.changes))
                tasks.create_task(self._watch())
                tasks.create_task(self.recorder.run())
                tasks.create_task(self.settler.run())
                for liveness in self.livenesses:
                    tasks.create_task(liveness.run())
        finally:
            await self.close()

    async def close(self) -> None:
        """Cancel what reconcilers have under way."""
        for crowd in self.crowds:
            await crowd.close()
        await self.copies.close()

    def rounds_of(self, *names: str) -> Sequence[Round]:
        """The reconcilers of these names."""
        return [one for one in self.rounds if one.name in names]

    async def _watch(self) -> None:
        """Pass on what nodes hint at; what they hinted at while nobody listened is looked for."""
        while True:
            self.changes.tell(OBSERVE)
            async for hint in self.engine.watch():
                if hint.state is ClaimState.DEAD:  # all else that happens to claims is our own doing
                    self.changes.tell(OBSERVE)
            await asyncio.sleep(WATCH_AGAIN_S)


def control_over(
    settings: Settings, database: Database, engine: Engine, guests: GuestPool, clock: SteadyClock
) -> Control:
    """A control plane over a store and an engine, that goes by a clock."""
    now_ms = clock.now_ms
    secret = key_file(settings.lib / "control" / "seal.key")
    seal = Seal(secret)
    changes = Changes()
    steps = Steps(database, changes, now_ms)
    fleet = Fleet(engine)
    observe = Observe(database, steps, engine, fleet)
    sandboxes = Sandboxes(database, steps, changes, seal, fleet.isolations, fleet.images)
    reacher = Reacher(sandboxes, engine, guests)
    pausing = Pausing(database, steps, sandboxes)
    pause = Pause(database, steps, engine, reacher)
    blobs = blobs_of(settings)
    strays = Strays(database, blobs)
    copies = Copies(database, engine, blobs, partial(derived, secret), now_ms)
    upload = Upload(database, steps, copies, monotonic_ms)
    no_room_wait_ms = settings.control.no_room_wait_ms
    place = Place(database, steps, engine, reacher, seal, fleet, copies, no_room_wait_ms=no_room_wait_ms)
    mend = Mend(database, steps, engine, reacher, Wishes(database, seal, now_ms), monotonic_ms)
    take = Take(database, steps, engine)
    reach = Reach(map(str, settings.control.webhook_networks))
    poster = Poster(reach, Lookup(), ssl.create_default_context())
    deliver = Deliver(database, steps, seal, poster, random.random)
    keeping = {
        "ended_kept_ms": settings.control.ended_kept_days * 24 * HOUR_MS,
        "deliveries_kept_ms": settings.control.deliveries_kept_days * 24 * HOUR_MS,
        "answers_kept_ms": settings.control.idempotency_kept_hours * HOUR_MS,
    }
    rows = CommandRows(database)
    liveness = Liveness(sandboxes.states, partial(_any_change, changes))
    visits = Visits(reacher, guests, liveness, monotonic_ms, pausing.awake)
    recorder = Recorder(rows.write)
    files = Files(visits, recorder, now_ms)
    last_liveness = Liveness(sandboxes.states, partial(_any_change, changes), status=Status.ENDING)
    last_visits = Visits(LastLook(reacher), guests, last_liveness, monotonic_ms, _never)
    publishing = Publishing(database, steps, sandboxes, recorder, blobs, strays)
    release = Release(database, steps, engine, reacher, take, publishing.salvage(last_visits))
    settler = Settler(visits=visits, rows=rows, recorder=recorder, oom_kills=reacher.oom_kills, now_ms=now_ms)
    attendance = Attendance(monotonic_ms)
    own_liveness = Liveness(sandboxes.states, partial(_any_change, changes))  # who waits there keeps nobody awake
    own_visits = Visits(reacher, guests, own_liveness, monotonic_ms, _never)
    secrets = Secrets(database, seal)
    accompanied = companions_over(publishing, secrets, changes, visits, own_visits, settings.control.recording_file_s)
    warn = Warn(database, steps)
    expire = Expire(database, steps, pausing, warn, at_hours_limit=settings.control.at_hours_limit)
    idle = Idle(
        database,
        steps,
        pausing,
        busy=lambda sandbox: any(
            knows(sandbox) for knows in (settler.attends, liveness.waited_for, attendance.has, accompanied.agents.busy)
        ),
        used_at=lambda sandbox: max(visits.used_at(sandbox) or 0, attendance.seen_at(sandbox)),
        monotonic_ms=monotonic_ms,
    )
    retire = Retire(database, steps, blobs, strays, kept_ms=settings.blobs.artifacts_kept_days * 24 * HOUR_MS)
    metrics = Metrics()
    metrics.previews.set_function(attendance.count)
    rounds = (
        Round("follow", Follow(database, clock, boot_id()).run_once, FOLLOW_S),
        Round("place", place.run_once, 0.5, (PLACE,)),
        Round("release", release.run_once, 1.0, (RELEASE,)),
        Round("pause", pause.run_once, 1.0, (PAUSE,)),
        Round("take", take.run_once, 1.0, (TAKE,)),
        Round("expire", expire.run_once, 0.5),
        Round("warn", warn.run_once, 0.5),
        Round("idle", idle.run_once, 1.0),
        Round("discard", Discard(database, engine).run_once, 30.0, (DISCARD,)),
        *([Round("upload", upload.run_once, 5.0, (UPLOAD,))] if snapshots_copied(settings) else []),
        Round("tidy", upload.tidy, 30.0, (DISCARD,)),
        Round("observe", observe.run_once, 2.0, (OBSERVE,)),
        Round("mend", mend.run_once, 2.0, (OBSERVE,)),
        Round("extend", Extend(database, steps, engine).run_once, 2.0, (EXTEND,)),
        *accompanied.rounds,
        Round("deliver", deliver.run_once, 0.25, (DELIVER,)),
        Round("retire", retire.run_once, 60.0),
        Round("strays", strays.run_once, 5.0),
        Round("sweep", retire.sweep, HOUR_MS / 1000),
        Round("count", Count(engine, strays, metrics.leaked).run_once, 30.0),
        Round("collect", Collect(database, steps, **keeping).run_once, 60.0),
    )
    commands = Commands(visits=visits, recorder=recorder, settler=settler, new_id=new_id, now_ms=now_ms)
    artifacts = publishing.artifacts(visits)
    parts = Parts(
        keys=Keys(database, now_ms, monotonic_ms),
        rates=Rates(time.monotonic, limited=settings.control.rate_limits),
        idempotency=Idempotency(database, now_ms, settings.control.idempotency_kept_hours * HOUR_MS),
        sandboxes=sandboxes,
        pausing=pausing,
        checkpoints=Checkpoints(database, steps, changes, sandboxes, pausing, take.unwritten),
        commands=commands,
        processes=Processes(visits=visits, rows=rows, settler=settler, now_ms=now_ms),
        files=files,
        artifacts=artifacts,
        documents=Documents(
            sandboxes=sandboxes, commands=commands, artifacts=artifacts, recorder=recorder, now_ms=now_ms
        ),
        terminals=Terminals(visits=visits, recorder=recorder, settler=settler, rows=rows, now_ms=now_ms),
        tokens=Tokens(key_file(settings.lib / "control" / "tokens.key"), now_ms),
        webhooks=Webhooks(database, changes, seal, reach, now_ms),
        accounts=Accounts(database, now_ms),
        previews=Previews(database, steps, sandboxes, visits),
        attendance=attendance,
        agents=accompanied.agents,
        browsers=accompanied.browsers,
        handoffs=accompanied.handoffs,
        novnc=settings.images / "novnc",
        public_url=settings.public_url,
        preview_urls=PreviewUrls.below(settings.preview_url),
        ready=partial(_ready, database, engine),
        metrics=metrics,
    )
    return Control(
        parts=parts,
        sandboxes=sandboxes,
        rounds=rounds,
        changes=changes,
        crowds=(
            place.crowd,
            pause.crowd,
            mend.crowd,
            take.crowd,
            upload.crowd,
            release.last_looks.crowd,
            release.crowd,
            deliver.crowd,
            *accompanied.crowds,
        ),
        copies=copies,
        engine=engine,
        recorder=recorder,
        settler=settler,
        livenesses=(liveness, last_liveness, own_liveness),
    )


async def _never(_actor: str, _sandbox: Sandbox) -> Sandbox:
    """Nothing wakes what is ending."""
    raise NotReady


async def _any_change(changes: Changes) -> None:
    with changes.listen(ANY) as ear:
        await ear.heard(1.0)


async def _ready(database: Database, engine: Engine) -> None:
    async with database.reading() as connection:
        await organisations.all_plans(connection)
    try:
        nodes = await engine.nodes()
    except EngineError as error:
        raise Unavailable("The node is away") from error
    if not any(node.images for node in nodes):
        raise Unavailable("The node has no image yet")
