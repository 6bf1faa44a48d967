"""A stage for the API: real routes, use cases, store and reconciling of ends, the real guest program as every
sandbox's inside, and a node that a test plays by hand."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from boxkeep_server.blobs.interface import Blobs
from boxkeep_server.blobs.local import LocalBlobs
from boxkeep_server.control.agents import Agents
from boxkeep_server.control.artifacts import Artifacts
from boxkeep_server.control.browsers import Browsers
from boxkeep_server.control.changes import Changes
from boxkeep_server.control.checkpoints import Checkpoints
from boxkeep_server.control.commands import Commands
from boxkeep_server.control.companions import Companions
from boxkeep_server.control.documents import Documents
from boxkeep_server.control.files import Files
from boxkeep_server.control.handoffs import Handoffs
from boxkeep_server.control.idempotency import Idempotency
from boxkeep_server.control.keys import Keys
from boxkeep_server.control.liveness import Liveness
from boxkeep_server.control.pausing import Pausing
from boxkeep_server.control.presence import Attendance, Presence
from boxkeep_server.control.previews import Previews
from boxkeep_server.control.processes import Processes
from boxkeep_server.control.rates import Rates
from boxkeep_server.control.reach import LastLook, Reacher
from boxkeep_server.control.reconcile.release import Release
from boxkeep_server.control.reconcile.take import Take
from boxkeep_server.control.record import Recorder
from boxkeep_server.control.recordings import Recordings
from boxkeep_server.control.salvage import Salvage
from boxkeep_server.control.sandboxes import Sandboxes
from boxkeep_server.control.secrets import Secrets
from boxkeep_server.control.settle import Settler
from boxkeep_server.control.steps import ANY, RELEASE, Steps
from boxkeep_server.control.strays import Strays
from boxkeep_server.control.terminals import Terminals
from boxkeep_server.control.usage import Accounts
from boxkeep_server.control.visits import Visits
from boxkeep_server.control.webhooks import Webhooks
from boxkeep_server.guestwire import GuestAddress, GuestPool
from boxkeep_server.model.ids import new_id
from boxkeep_server.model.node_api import Claim, ClaimState, Role
from boxkeep_server.model.node_api import Release as Remains
from boxkeep_server.model.plans import BUILT_IN, Plan
from boxkeep_server.model.previews import PreviewUrls
from boxkeep_server.model.rates import RATES, CallKind, Rate
from boxkeep_server.model.sandboxes import NewSandbox, Sandbox
from boxkeep_server.model.scopes import Scope
from boxkeep_server.model.statuses import Status
from boxkeep_server.outbound.addresses import Reach
from boxkeep_server.store.commands import CommandRows
from boxkeep_server.store.database import Database
from boxkeep_server.store.sealing import Seal
from boxkeep_server.web.app import build
from boxkeep_server.web.parts import Parts
from boxkeep_server.web.tokens import Tokens
from tests.controls import sqlite_store

PUBLIC = "http://boxkeep.test"
PREVIEWS = "http://localhost:7072"
UNLIMITED: Plan = BUILT_IN["unlimited"]


class Clock:
    """Epoch ms, which a test may set ahead."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def __call__(self) -> int:
        return int(time.time() * 1000) + self.ahead_ms


LAST_LOOK_S = 3.0
"""How long the end of a sandbox of the stage may be held up."""


class HandPlayedNode:
    """An engine without machines: it knows the claims that a test gives it."""

    def __init__(self) -> None:
        self.claims: dict[tuple[str, int], Claim] = {}
        self.remains: dict[str, Remains] = {}

    def bind(self, sandbox: Sandbox, address: GuestAddress) -> None:
        """Let a sandbox's machine be the guest at `address`."""
        self.claims[sandbox.id, sandbox.epoch] = Claim(
            sandbox=sandbox.id,
            epoch=sandbox.epoch,
            role="main",
            machine=address.machine,
            isolation="runc",
            image=sandbox.runtime,
            digest="0" * 64,
            state=ClaimState.RUNNING,
            address=address.host,
            port=address.port,
            secret=address.secret.hex(),
            boot_id="boot",
            claimed_at=0,
            not_after=1 << 50,
            last_seen_at=0,
        )

    async def claim(self, node: str, sandbox: str, epoch: int, role: str = "main") -> Claim | None:
        return self.claims.get((sandbox, epoch))

    async def release(self, node: str | None, sandbox: str, epoch: int, role: str = "main") -> Remains:
        return self.remains.get(sandbox, Remains())


class LooseReacher(Reacher):
    """Reaches guests that were booted with another epoch than their sandbox's."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.guests: dict[str, GuestAddress] = {}

    async def _address(self, sandbox: Sandbox, role: Role) -> GuestAddress:
        await super()._address(sandbox, role)
        return self.guests[sandbox.id]


class Stage:
    """Everything together."""

    def __init__(
        self,
        database: Database,
        pool: GuestPool,
        blobs: Blobs,
        folder: Path,
        rates: dict[CallKind, Rate] | None = None,
    ) -> None:
        self.folder = folder
        self.recordings_folder = folder.with_name("recordings")
        self._held = False
        self.database = database
        self.blobs = blobs
        self.clock = Clock()
        self.changes = Changes()
        self.steps = Steps(database, self.changes, self.clock)
        self.node = HandPlayedNode()
        self.seal = Seal(b"s" * 32)
        self.reach = Reach(["127.0.0.0/8"])
        self.keys = Keys(database, self.clock, lambda: time.monotonic() * 1000)
        self.sandboxes = Sandboxes(database, self.steps, self.changes, self.seal)
        self.reacher = LooseReacher(self.sandboxes, self.node, pool)
        self.rows = CommandRows(database)
        self.attendance = Attendance(self.clock)
        self.presence = Presence()
        self.recorder = Recorder(self.rows.write)
        liveness = Liveness(self.sandboxes.states, self._changed)
        self.pausing = Pausing(database, self.steps, self.sandboxes)
        visits = self.visits = Visits(self.reacher, pool, liveness, self.clock, self.pausing.awake)
        self.settler = Settler(
            visits=visits,
            rows=self.rows,
            recorder=self.recorder,
            oom_kills=self.reacher.oom_kills,
            now_ms=self.clock,
        )
        take = Take(database, self.steps, self.node)  # type: ignore[arg-type]
        files = Files(visits, self.recorder, self.clock)
        ending = Liveness(self.sandboxes.states, self._changed, status=Status.ENDING)
        last_visits = Visits(LastLook(self.reacher), pool, ending, self.clock, self.pausing.awake)
        last_files = Files(last_visits, self.recorder, self.clock)
        last_artifacts = Artifacts(
            database, self.steps, self.sandboxes, last_files, blobs, Strays(database, blobs), folder=str(folder)
        )
        last_recordings = Recordings(
            database, self.steps, last_visits, last_files, last_artifacts, folder=str(self.recordings_folder)
        )
        self.salvage = Salvage(database, self.steps, last_artifacts, last_recordings, within_s=LAST_LOOK_S)
        self._release = Release(database, self.steps, self.node, self.reacher, take, self.salvage)  # type: ignore[arg-type]
        self._running = (
            self.recorder.run,
            self.settler.run,
            liveness.run,
            ending.run,
            self._releasing,
            self._attending,
        )
        own = Liveness(self.sandboxes.states, self._changed)
        companions = Companions(database, self.steps, Visits(self.reacher, pool, own, self.clock, self.pausing.awake))
        handoffs = Handoffs(database, self.steps, self.sandboxes)
        commands = Commands(
            visits=visits, recorder=self.recorder, settler=self.settler, new_id=new_id, now_ms=self.clock
        )
        published = Artifacts(database, self.steps, self.sandboxes, files, self.blobs, Strays(database, self.blobs))
        self.parts = Parts(
            keys=self.keys,
            rates=Rates(time.monotonic, limited=rates is not None, rates=rates or RATES),
            idempotency=Idempotency(database, self.clock, 86_400_000),
            sandboxes=self.sandboxes,
            pausing=self.pausing,
            checkpoints=Checkpoints(database, self.steps, self.changes, self.sandboxes, self.pausing, take.unwritten),
            commands=commands,
            processes=Processes(visits=visits, rows=self.rows, settler=self.settler, now_ms=self.clock),
            files=files,
            artifacts=published,
            documents=Documents(
                sandboxes=self.sandboxes,
                commands=commands,
                artifacts=published,
                recorder=self.recorder,
                now_ms=self.clock,
            ),
            terminals=Terminals(
                visits=visits, rows=self.rows, recorder=self.recorder, settler=self.settler, now_ms=self.clock
            ),
            tokens=Tokens(b"k" * 32, self.clock),
            webhooks=Webhooks(database, self.changes, self.seal, self.reach, self.clock),
            accounts=Accounts(database, self.clock),
            previews=Previews(database, self.steps, self.sandboxes, visits),
            attendance=self.attendance,
            agents=Agents(database, self.steps, self.changes, self.sandboxes, companions, visits),
            browsers=Browsers(self.sandboxes, Secrets(database, self.seal), companions, handoffs, visits),
            handoffs=handoffs,
            novnc=folder / "novnc",
            public_url=PUBLIC,
            preview_urls=PreviewUrls.below(PREVIEWS),
        )
        self.app = build(self.parts)

    async def _changed(self) -> None:
        with self.changes.listen(ANY) as ear:
            await ear.heard(1.0)

    def hold(self) -> None:
        """Release nothing until `let_go`."""
        self._held = True

    def let_go(self) -> None:
        """Release again."""
        self._held = False
        self.steps.wake(RELEASE)

    async def _attending(self) -> None:
        async for sandboxes in self.presence.reports():
            self.attendance.report(sandboxes)

    async def _releasing(self) -> None:
        with self.changes.listen(RELEASE) as ear:
            while True:
                if not self._held:
                    await self._release.run_once()
                await ear.heard(0.5)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Stage"]:
        """Within it what runs in the background runs."""
        tasks = [asyncio.create_task(run()) for run in self._running]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            await self._release.last_looks.crowd.close()
            await self._release.crowd.close()
            assert [error for error in ended if not isinstance(error, asyncio.CancelledError)] == []

    async def key(self, organisation: str, plan: str = "unlimited", *scopes: Scope) -> str:
        """A new key."""
        return (await self.keys.create(organisation, plan, frozenset(scopes))).key

    def client(self, key: str | None) -> httpx.AsyncClient:
        """A client of the application in process."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=True)
        return httpx.AsyncClient(transport=transport, base_url=PUBLIC, headers=headers, timeout=60)

    async def sandbox(self, key: str, runtime: str = "base") -> Sandbox:
        """A queued sandbox."""
        wish = NewSandbox(runtime=runtime)  # type: ignore[arg-type]
        return await self.sandboxes.create(await self.keys.authenticate(key), wish)

    async def ready_sandbox(self, key: str, address: GuestAddress, runtime: str = "base") -> str:
        """A sandbox that is ready, whose inside is the guest at `address`; its id."""
        sandbox = await self.sandbox(key, runtime)
        return await self.make_ready(sandbox.id, address)

    async def make_ready(self, sandbox_id: str, address: GuestAddress) -> str:
        """Bring a queued sandbox to `ready`, as placing does."""
        queued = await self.sandboxes.state(sandbox_id)
        assert queued is not None
        assigning = await self.steps.step(queued, Status.ASSIGNING, epoch=1, sides=dict.fromkeys(queued.sides, 1))
        assert assigning is not None
        self.node.bind(assigning, address)
        self.reacher.guests[sandbox_id] = address
        now = self.clock()
        times: dict[str, Any] = {"started_at": now, "ready_at": now, "expires_at": now + 600_000}
        moved = await self.steps.step(assigning, Status.READY, node=new_id(), region="loc", isolation="runc", **times)
        assert moved is not None
        return sandbox_id

    async def fail(self, sandbox_id: str, reason: str) -> None:
        """Let a sandbox fail, as observing a dead machine does."""
        sandbox = await self.sandboxes.state(sandbox_id)
        assert sandbox is not None
        assert await self.steps.step(sandbox, Status.FAILED, reason=reason) is not None

    def kill_for_memory(self, sandbox_id: str, kills: int) -> None:
        """Let the node count processes that the kernel killed."""
        for key in [key for key in self.node.claims if key[0] == sandbox_id]:
            self.node.claims[key] = self.node.claims[key].model_copy(update={"oom_kills": kills})


@asynccontextmanager
async def staged(directory: Path, pool: GuestPool, **options: Any) -> AsyncIterator[Stage]:
    """A stage with a store of its own, running."""
    async with sqlite_store(directory) as database:
        made = Stage(database, pool, LocalBlobs(directory / "blobs"), directory / "artifacts", **options)
        async with made.running() as stage:
            yield stage


__all__ = ["PUBLIC", "Stage", "staged"]
