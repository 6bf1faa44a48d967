"""A control plane without its HTTP side, over a given store and a fake engine, driven round by round."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

from boxkeep_server.blobs.interface import Blobs
from boxkeep_server.control.artifacts import Artifacts
from boxkeep_server.control.changes import Changes
from boxkeep_server.control.checkpoints import Checkpoints
from boxkeep_server.control.copies import Copies
from boxkeep_server.control.fleet import Fleet
from boxkeep_server.control.keys import Caller, Keys
from boxkeep_server.control.machines import Wishes
from boxkeep_server.control.pausing import Pausing
from boxkeep_server.control.reach import Reacher
from boxkeep_server.control.reconcile.collect import Collect
from boxkeep_server.control.reconcile.discard import Discard
from boxkeep_server.control.reconcile.expire import Expire, OnExpiry
from boxkeep_server.control.reconcile.extend import Extend
from boxkeep_server.control.reconcile.idle import Idle
from boxkeep_server.control.reconcile.mend import Mend
from boxkeep_server.control.reconcile.observe import Observe
from boxkeep_server.control.reconcile.pause import Pause
from boxkeep_server.control.reconcile.place import Place
from boxkeep_server.control.reconcile.release import Release
from boxkeep_server.control.reconcile.take import Take
from boxkeep_server.control.reconcile.upload import Upload
from boxkeep_server.control.reconcile.warn import Warn
from boxkeep_server.control.recordings import Recordings
from boxkeep_server.control.salvage import Salvage
from boxkeep_server.control.sandboxes import Sandboxes
from boxkeep_server.control.steps import Steps
from boxkeep_server.guestwire import GuestPool
from boxkeep_server.model.commands import Command
from boxkeep_server.model.errors import NotReady
from boxkeep_server.model.ids import new_id
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.store.database import Database
from boxkeep_server.store.sealing import Seal, derived
from tests.blob_stores import MemoryBlobs
from tests.engines import Clock, MemoryEngine


class NobodyHome(Artifacts):
    """Engines in memory have no guests that could be looked into."""

    def __init__(self) -> None:
        pass

    async def below(self, caller: Caller, sandbox_id: str) -> tuple[Sequence[str], Sequence[str]]:
        raise NotReady


class NothingRecorded(Recordings):
    """Nor have they browsers."""

    def __init__(self) -> None:
        pass

    async def finish(self, sandbox: Sandbox, within_s: float) -> None:
        pass


class Rig:
    """Use cases and reconcilers; a second one over the same store and engine is the process after a crash."""

    def __init__(
        self,
        database: Database,
        engine: MemoryEngine,
        clock: Clock,
        at_hours_limit: OnExpiry = "end",
        blobs: Blobs | None = None,
    ) -> None:
        self.database, self.engine, self.clock = database, engine, clock
        self.changes = Changes()
        steps = Steps(database, self.changes, clock)
        seal = Seal(b"k" * 32)
        self.keys = Keys(database, clock, lambda: float(clock()))
        self.fleet = Fleet(engine)
        self.sandboxes = Sandboxes(database, steps, self.changes, seal, self.fleet.isolations, self.fleet.images)
        self.reacher = reacher = Reacher(self.sandboxes, engine, GuestPool())
        self.copies = Copies(database, engine, blobs or MemoryBlobs(clock), partial(derived, b"k" * 32), clock)
        self.upload = Upload(database, steps, self.copies, clock)
        self.place = Place(database, steps, engine, reacher, seal, self.fleet, self.copies, no_room_wait_ms=60_000)
        self.take = Take(database, steps, engine)
        salvage = Salvage(database, steps, NobodyHome(), NothingRecorded())
        self.release = Release(database, steps, engine, reacher, self.take, salvage)
        self.pausing = Pausing(database, steps, self.sandboxes)
        self.checkpoints = Checkpoints(database, steps, self.changes, self.sandboxes, self.pausing, self.take.unwritten)
        self.pause = Pause(database, steps, engine, reacher)
        self.discard = Discard(database, engine)
        self.warn = Warn(database, steps)
        self.expire = Expire(database, steps, self.pausing, self.warn, at_hours_limit=at_hours_limit)
        self.busy: set[str] = set()
        self.used: dict[str, int] = {}
        self.idle = Idle(
            database, steps, self.pausing, busy=self.busy.__contains__, used_at=self.used.get, monotonic_ms=clock
        )
        self.observe = Observe(database, steps, engine, self.fleet)
        self.mend = Mend(database, steps, engine, reacher, Wishes(database, seal, clock), clock)
        self.extend = Extend(database, steps, engine)
        self.collect = Collect(database, steps, ended_kept_ms=1000, answers_kept_ms=1000, deliveries_kept_ms=1000)

    async def round(self) -> None:
        """Every reconciler once, and what they started to its end."""
        works = (
            self.observe,
            self.mend,
            self.warn,
            self.expire,
            self.idle,
            self.extend,
            self.take,
            self.pause,
            self.place,
            self.release,
            self.discard,
        )
        for one in works:
            await one.run_once()
            last_looks = self.release.last_looks
            for crowd in (self.mend.crowd, self.take.crowd, self.pause.crowd, self.place.crowd, last_looks.crowd):
                await crowd.settled()
            await self.release.run_once()
            await self.release.crowd.settled()

    async def caller(self, organisation: str = "one", plan: str = "unlimited") -> Caller:
        """A caller of an organisation on a plan."""
        made = await self.keys.create(organisation, plan, frozenset())
        return await self.keys.authenticate(made.key)


def command_in(sandbox: Sandbox, **fields: Any) -> Command:
    """A command that runs in a sandbox."""
    return Command(
        id=new_id(),
        sandbox=sandbox.id,
        organisation=sandbox.organisation,
        epoch=sandbox.epoch,
        kind="exec",
        line="sleep 60",
        cwd="/workspace",
        user="root",
        background=True,
        pty=False,
        timeout_ms=None,
        started_at=sandbox.ready_at or 0,
        started_by=sandbox.created_by,
        **fields,
    )


@asynccontextmanager
async def sqlite_store(directory: Path) -> AsyncIterator[Database]:
    """A store in a file, migrated and seeded."""
    async with store_at(sqlite_url(directory)) as database:
        yield database


def sqlite_url(directory: Path) -> str:
    """The address of a store in a file, with tables and nothing in them."""
    file = directory / "store.sqlite3"
    file.touch(mode=0o600, exist_ok=False)
    file.write_bytes(_migrated())
    return f"sqlite+aiosqlite:///{file}"


@cache
def _migrated() -> bytes:
    """Such a file. To make its tables takes longer than most tests that have one of their own."""
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(1) as thread:
        file = Path(directory, "store.sqlite3")
        thread.submit(asyncio.run, migrate(f"sqlite+aiosqlite:///{file}")).result()
        return file.read_bytes()


async def migrate(url: str) -> None:
    """Make the tables of a store."""
    await (await Database.open(url)).close()


@asynccontextmanager
async def store_at(url: str) -> AsyncIterator[Database]:
    """A store at an address, migrated and seeded."""
    database = await Database.open(url)
    try:
        yield database
    finally:
        await database.close()
