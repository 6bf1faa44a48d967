"""A stage for the API: its real routes and use cases, the real guest program as every sandbox's inside, and a control
plane in memory whose sandboxes a test moves by hand."""

import asyncio
import dataclasses
import itertools
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

from boxkeep_server.control.commands import Commands
from boxkeep_server.control.files import Files
from boxkeep_server.control.liveness import Liveness
from boxkeep_server.control.ports import CommandPage
from boxkeep_server.control.processes import Processes
from boxkeep_server.control.record import Ending, Recorder
from boxkeep_server.control.settle import Settler
from boxkeep_server.control.terminals import Terminals
from boxkeep_server.control.visits import Visits
from boxkeep_server.guestwire import GuestAddress, GuestPool
from boxkeep_server.model.commands import Command
from boxkeep_server.model.errors import (
    Conflict,
    Invalid,
    LimitReached,
    NotReady,
    RateLimited,
    SandboxNotFound,
    Unauthenticated,
)
from boxkeep_server.model.events import Event, EventType
from boxkeep_server.model.ids import new_id, new_key
from boxkeep_server.model.plans import BUILT_IN, Plan
from boxkeep_server.model.rates import CallKind
from boxkeep_server.model.sandboxes import NewSandbox, Sandbox
from boxkeep_server.model.scopes import Scope
from boxkeep_server.model.statuses import COUNTED, OVER, Status
from boxkeep_server.web.app import build
from boxkeep_server.web.parts import Parts, Stored
from boxkeep_server.web.tokens import Tokens

PUBLIC = "http://boxkeep.test"


@dataclass(frozen=True)
class Key:
    """A caller of the tests."""

    organisation: str
    key_id: str
    scopes: frozenset[Scope]
    plan: Plan


@dataclass
class Page:
    """A page of sandboxes."""

    items: list[Sandbox]
    next_cursor: str | None


class MemoryKeys:
    """Keys in a dict."""

    def __init__(self) -> None:
        self.by_key: dict[str, Key] = {}

    def add(self, organisation: str, plan: str = "unlimited", *scopes: Scope) -> str:
        """A new key; the key itself."""
        key = new_key()
        self.by_key[key] = Key(organisation, new_id(), frozenset(scopes), BUILT_IN[plan])
        return key

    async def authenticate(self, key: str) -> Key:
        if key not in self.by_key:
            raise Unauthenticated
        return self.by_key[key]

    async def caller_of(self, key_id: str) -> Key:
        for caller in self.by_key.values():
            if caller.key_id == key_id:
                return caller
        raise Unauthenticated


class MemoryRates:
    """Allows everything, until told otherwise."""

    def __init__(self) -> None:
        self.full: set[CallKind] = set()

    async def take(self, organisation: str, kind: CallKind) -> None:
        if kind in self.full:
            raise RateLimited(7)


class MemoryIdempotency:
    """Answers in a dict."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str, str], tuple[str, asyncio.Future[Stored | None]]] = {}

    async def begin(self, organisation: str, route: str, key: str, fingerprint: str) -> Stored | None:
        while (found := self.kept.get((organisation, route, key))) is not None:
            if found[0] != fingerprint:
                raise Conflict("Idempotency-Key was used with another request")
            if (stored := await asyncio.shield(found[1])) is not None:
                return stored
        future: asyncio.Future[Stored | None] = asyncio.get_running_loop().create_future()
        self.kept[organisation, route, key] = (fingerprint, future)
        return None

    async def finish(self, organisation: str, route: str, key: str, stored: Stored) -> None:
        self.kept[organisation, route, key][1].set_result(stored)

    async def abandon(self, organisation: str, route: str, key: str) -> None:
        self.kept.pop((organisation, route, key))[1].set_result(None)


class MemoryRows:
    """Records of commands in a dict, with the store's promise: the first ending stays."""

    def __init__(self) -> None:
        self.rows: dict[str, Command] = {}
        self.writes = 0

    async def write(self, opened: Sequence[Command], ended: Sequence[Ending]) -> Mapping[str, Command]:
        self.writes += 1
        for command in opened:
            self.rows.setdefault(command.id, command)
        for ending in ended:
            row = self.rows.get(ending.id)
            if row is not None and row.outcome is None:
                changes = {f.name: getattr(ending, f.name) for f in dataclasses.fields(ending) if f.name != "id"}
                self.rows[ending.id] = dataclasses.replace(row, **changes)
        return {ending.id: self.rows[ending.id] for ending in ended if ending.id in self.rows}

    async def get(self, command_id: str) -> Command | None:
        return self.rows.get(command_id)

    async def page(self, sandbox_id: str, cursor: str | None, limit: int) -> CommandPage:
        if cursor is not None and cursor not in self.rows:
            raise Invalid("Invalid cursor: it is none of ours")
        mine = [row for row in reversed(self.rows.values()) if row.sandbox == sandbox_id]
        start = 0 if cursor is None else [row.id for row in mine].index(cursor) + 1
        page = mine[start : start + limit]
        return CommandPage(page, page[-1].id if len(mine) > start + limit else None)

    async def open(self) -> list[Command]:
        return [row for row in self.rows.values() if row.outcome is None]


@dataclass
class MemorySandboxes:
    """Sandboxes in a dict; those that are created wait in `queued` until a test moves them."""

    now_ms: "Clock"
    rows: dict[str, Sandbox] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    changed_at: asyncio.Event = field(default_factory=asyncio.Event)
    addresses: dict[str, GuestAddress] = field(default_factory=dict)

    async def create(self, caller: Key, wish: NewSandbox) -> Sandbox:
        held = sum(row.organisation == caller.organisation and row.status in COUNTED for row in self.rows.values())
        if caller.plan.concurrent is not None and held >= caller.plan.concurrent:
            raise LimitReached("Concurrent sandbox limit reached")
        now = self.now_ms()
        sandbox = Sandbox(
            id=new_id(),
            organisation=caller.organisation,
            status=Status.QUEUED,
            revision=1,
            epoch=1,
            runtime=wish.runtime,
            ephemeral=wish.ephemeral,
            max_duration_ms=wish.max_duration_ms or caller.plan.max_duration_ms or 86_400_000,
            region=None,
            wished_region=wish.region,
            wished_isolation=wish.isolation,
            isolation=None,
            pause_keeps=None,
            capabilities=wish.capabilities,
            network=wish.network,
            name=wish.name,
            metadata=wish.metadata,
            env_names=tuple(wish.env),
            node=None,
            created_at=now,
            queued_at=now,
            started_at=None,
            ready_at=None,
            expires_at=None,
            ended_at=None,
            billed_ms=0,
            reason=None,
            created_by=caller.key_id,
        )
        self.rows[sandbox.id] = sandbox
        self._note(sandbox, EventType.CREATED)
        return sandbox

    def move(self, sandbox_id: str, status: Status, reason: str | None = None) -> Sandbox:
        """Move a sandbox by hand."""
        now = self.now_ms()
        ended_at = now if status in OVER else None
        self.rows[sandbox_id] = dataclasses.replace(
            self.rows[sandbox_id],
            status=status,
            reason=reason,
            region="loc",
            isolation="runc",
            started_at=now,
            ended_at=ended_at,
            expires_at=now + 60_000,
        )
        self._note(self.rows[sandbox_id], EventType(f"sandbox.{'assigned' if status == 'assigning' else status}"))
        return self.rows[sandbox_id]

    def _note(self, sandbox: Sandbox, kind: EventType) -> None:
        sequence = sum(event.sandbox == sandbox.id for event in self.events) + 1
        self.events.append(
            Event(len(self.events) + 1, sandbox.id, sandbox.organisation, sequence, kind, self.now_ms(), "test", {})
        )
        self.changed_at.set()

    async def get(self, caller: Key, sandbox_id: str) -> Sandbox:
        return await self.sandbox(caller.organisation, sandbox_id)

    async def list(
        self, caller: Key, *, limit: int, cursor: str | None, status: str | None, metadata: Mapping[str, str]
    ) -> Page:
        mine = [row for row in reversed(self.rows.values()) if row.organisation == caller.organisation]
        mine = [row for row in mine if metadata.items() <= row.metadata.items() and status in (None, row.status)]
        if cursor is not None and cursor not in self.rows:
            raise Invalid("Invalid cursor: it is none of ours")
        start = 0 if cursor is None else [row.id for row in mine].index(cursor) + 1
        page = mine[start : start + limit]
        return Page(page, page[-1].id if len(mine) > start + limit else None)

    async def end(self, caller: Key, sandbox_id: str) -> Sandbox:
        sandbox = await self.get(caller, sandbox_id)
        return sandbox if sandbox.status in OVER else self.move(sandbox_id, Status.ENDED, "user_request")

    async def patch(self, caller: Key, sandbox_id: str, changes: Mapping[str, object]) -> Sandbox:
        sandbox = await self.get(caller, sandbox_id)
        if sandbox.status in OVER:
            raise Conflict("Sandbox has ended")
        self.rows[sandbox_id] = dataclasses.replace(sandbox, **changes)  # type: ignore[arg-type]
        return self.rows[sandbox_id]

    async def wait(self, caller: Key, sandbox_id: str, timeout_ms: int) -> Sandbox:
        return await self.get(caller, sandbox_id)

    async def sandbox(self, organisation: str, sandbox_id: str) -> Sandbox:
        sandbox = self.rows.get(sandbox_id)
        if sandbox is None or sandbox.organisation != organisation:
            raise SandboxNotFound
        return sandbox

    async def state(self, sandbox_id: str) -> Sandbox | None:
        return self.rows.get(sandbox_id)

    async def states(self, ids: Collection[str]) -> dict[str, tuple[Status, int]]:
        return {name: (self.rows[name].status, self.rows[name].epoch) for name in ids if name in self.rows}

    async def address(self, sandbox: Sandbox) -> GuestAddress:
        if sandbox.id not in self.addresses:
            raise NotReady
        return self.addresses[sandbox.id]

    async def changed(self) -> None:
        await self.changed_at.wait()
        self.changed_at.clear()


@dataclass
class MemoryEvents:
    """The events of the sandboxes in memory."""

    sandboxes: MemorySandboxes

    async def after(self, sandbox_id: str, sequence: int, limit: int) -> list[Event]:
        found = (e for e in self.sandboxes.events if e.sandbox == sandbox_id and e.sequence > sequence)
        return list(itertools.islice(found, limit))

    async def changed(self, sandbox_id: str, within_s: float) -> None:
        await asyncio.sleep(min(within_s, 0.02))


class Clock:
    """Epoch ms of the host, which a test may set ahead."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def __call__(self) -> int:
        import time

        return int(time.time() * 1000) + self.ahead_ms


class Stage:
    """Everything together."""

    def __init__(self, pool: GuestPool) -> None:
        self.clock = Clock()
        self.keys = MemoryKeys()
        self.rates = MemoryRates()
        self.sandboxes = MemorySandboxes(self.clock)
        self.rows = MemoryRows()
        self.oom_kills = 0
        self.liveness = Liveness(self.sandboxes.states, self.sandboxes.changed, poll_s=0.05)
        visits = Visits(self.sandboxes, pool, self.liveness)
        self.recorder = Recorder(self.rows.write)
        self.settler = Settler(
            visits=visits, rows=self.rows, recorder=self.recorder, oom_kills=self._kills, now_ms=self.clock
        )
        several = {"visits": visits, "recorder": self.recorder, "settler": self.settler}
        self.parts = Parts(
            keys=self.keys,
            rates=self.rates,
            idempotency=MemoryIdempotency(),
            sandboxes=self.sandboxes,  # type: ignore[arg-type]
            events=MemoryEvents(self.sandboxes),
            commands=Commands(**several, new_id=new_id, now_ms=self.clock),  # type: ignore[arg-type]
            processes=Processes(visits=visits, rows=self.rows, settler=self.settler, now_ms=self.clock),
            files=Files(visits),
            terminals=Terminals(**several, rows=self.rows, now_ms=self.clock),  # type: ignore[arg-type]
            tokens=Tokens(b"k" * 32, self.clock),
            public_url=PUBLIC,
        )
        self.app = build(self.parts)

    async def _kills(self, sandbox: Sandbox) -> int:
        return self.oom_kills

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Stage"]:
        """Within it the recorder, the settler and the liveness watch run."""
        tasks = [asyncio.create_task(part.run()) for part in (self.recorder, self.settler, self.liveness)]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def client(self, key: str | None) -> httpx.AsyncClient:
        """A client of the application in process."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=True)
        return httpx.AsyncClient(transport=transport, base_url=PUBLIC, headers=headers, timeout=60)

    async def ready_sandbox(self, key: str, address: GuestAddress, runtime: str = "base") -> str:
        """A sandbox that is ready, whose inside is the guest at `address`; its id."""
        caller = await self.keys.authenticate(key)
        sandbox = await self.sandboxes.create(caller, NewSandbox(runtime=runtime))  # type: ignore[arg-type]
        self.sandboxes.addresses[sandbox.id] = address
        self.sandboxes.move(sandbox.id, Status.READY)
        return sandbox.id
