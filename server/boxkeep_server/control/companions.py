"""Companions: programs of ours beside what runs in a sandbox, started, listened to, ordered, and started again."""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.control.inside import read_count, read_process
from boxkeep_server.control.steps import ATTEND, SYSTEM, Steps
from boxkeep_server.control.visits import Visit, Visits
from boxkeep_server.model.companions import LINE_MOST, Companion, CompanionState, Said, heard, read_said
from boxkeep_server.model.errors import Conflict, NotReady, SandboxFault, TimedOut
from boxkeep_server.model.events import EventType
from boxkeep_server.model.ids import new_id
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.store import companions
from boxkeep_server.store.database import Database

CALM_S: Final = 0.2
"""Between two writes of what one companion says, however fast it speaks."""
BACKOFF_S: Final = (0.2, 1.0, 5.0)
FAILURES_MOST: Final = 3
ORDER_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A companion as it is wished: the program inside, the account that it runs as, and what its states are called.
    What it is told first, where nobody else sees it, is asked for when it is started. `hear` is given what it says, to
    be written with it."""

    name: str
    program: str
    user: str
    became_ready: EventType
    became_failed: EventType
    hear: Callable[[AsyncConnection, Companion, Sequence[Said]], Awaitable[None]] | None = None
    told_first: Callable[[], Awaitable[bytes]] | None = None
    arguments: Sequence[str] = ()

    async def request(self, process: str) -> dict[str, object]:
        """The guest wire's request that starts it, or finds it running."""
        return {
            "op": "process.start",
            "id": process,
            "command": self.program,
            "args": list(self.arguments),
            "cwd": "/",
            "user": self.user,
            "stdin": None if self.told_first is None else base64.b64encode(await self.told_first()).decode(),
            "keepStdin": True,
            "background": True,
            "companion": True,
            "answer": "started",
        }


class Companions:
    """Keeps companions of ready sandboxes, each in that of their machines that has its name, if there is one. `visits`
    are of its own: what it does keeps no sandbox awake."""

    def __init__(
        self, database: Database, steps: Steps, visits: Visits, backoff_s: Sequence[float] = BACKOFF_S
    ) -> None:
        self._database = database
        self._steps = steps
        self._visits = visits
        self._backoff_s = backoff_s
        self._orders: dict[str, tuple[str, str, asyncio.Future[Said]]] = {}

    async def attend(self, sandbox: Sandbox, kind: Kind) -> None:
        """Have a companion there for as long as the sandbox is ready, or until it fails time and again.

        Raises:
            BoxkeepError: the sandbox is not ready any more, or its guest is away for now.
        """
        one = await self._known(sandbox, kind)
        failures = 0
        while one.state is not CompanionState.FAILED:
            visit = await self._visits.towards(kind.name).of(sandbox.id)
            if visit.sandbox.epoch != sandbox.epoch:
                return
            process = read_process(await visit.call(await kind.request(one.process)))
            if not process.finished:  # else it ended while nobody looked, as at a pause that keeps files alone
                was_ready = one.state is CompanionState.READY
                one = await self._listen(visit, kind, one)
                self._unanswered(one)
                failures = 0 if was_ready or one.state is CompanionState.READY else failures + 1
                await asyncio.sleep(self._backoff_s[min(failures, len(self._backoff_s) - 1)])
            await self._visits.of(sandbox.id)  # raises where it is the sandbox that ended
            if one.state is not CompanionState.FAILED:
                one = await self._next(kind, one, failures)

    async def of(self, sandbox: str) -> Mapping[str, Companion]:
        """What is known of a sandbox's companions, by name."""
        async with self._database.reading() as connection:
            return {one.name: one for one in await companions.of(connection, sandbox)}

    async def try_again(self, sandbox: Sandbox, name: str) -> None:
        """Have one that was given up be tried again."""
        one = (await self.of(sandbox.id)).get(name)
        if one is not None and one.state is CompanionState.FAILED:
            after = replace(one.again(), updated_at=self._steps.now_ms())
            async with self._database.writing() as connection:
                await companions.change(connection, one, after, None, SYSTEM)
            self._steps.wake(ATTEND)

    async def order_of(self, sandbox_id: str, name: str, **order: object) -> None:
        """`order` for our own purposes, in a sandbox that is ready. Raises the same."""
        await self.order((await self._visits.of(sandbox_id)).sandbox, name, **order)

    async def order(self, sandbox: Sandbox, name: str, **order: object) -> None:
        """Have a companion do something, and wait until it says that it has.

        Raises:
            Conflict: it is not ready, cannot, or ends meanwhile.
            TimedOut: it says nothing.
            NotReady, SandboxFault, Unavailable: as the sandbox is.
        """
        one = (await self.of(sandbox.id)).get(name)
        if one is None or one.state is not CompanionState.READY or one.epoch != sandbox.epoch:
            raise Conflict(f"The sandbox's {name} is not ready")
        number = new_id()
        answer: asyncio.Future[Said] = asyncio.get_running_loop().create_future()
        self._orders[number] = sandbox.id, name, answer
        line = orjson.dumps({**order, "id": number}) + b"\n"
        try:
            visit = await self._visits.towards(name).of(sandbox.id)
            await visit.upload({"op": "process.stdin", "id": one.process, "close": False}, _whole(line))
            async with asyncio.timeout(ORDER_S):
                said = await answer
        except TimeoutError as late:
            raise TimedOut(f"The sandbox's {name} does not answer") from late
        finally:
            del self._orders[number]
        if said.event == "refused":
            raise Conflict(said.reason or f"The sandbox's {name} refuses")

    async def _known(self, sandbox: Sandbox, kind: Kind) -> Companion:
        """What is known of it. In another machine it is heard from the beginning once more, all at once: whether it
        lives there, and how it is, that tells."""
        one = (await self.of(sandbox.id)).get(kind.name)
        if one is not None and one.epoch == sandbox.epoch:
            return one
        new = Companion(sandbox.id, sandbox.organisation, kind.name, sandbox.epoch, 0, 0, CompanionState.STARTING)
        async with self._database.writing() as connection:
            one = await companions.begin(connection, replace(new, updated_at=self._steps.now_ms()))
            now = replace(one, epoch=sandbox.epoch, heard_to=0, state=CompanionState.STARTING, ports={}, facts={})
            await companions.change(connection, one, now, None, SYSTEM)
            return now

    async def _listen(self, visit: Visit, kind: Kind, one: Companion) -> Companion:
        """Hear what a companion's process says, to its end."""
        request = {
            "op": "process.output",
            "id": one.process,
            "stream": "stdout",
            "offset": one.heard_to,
            "length": None,
            "follow": True,
        }
        async with aclosing(await visit.download(request)) as download:
            if read_count(download.answer.get("offset")) != one.heard_to:
                raise SandboxFault
            pending = b""
            async for frame in download.frames():
                pending += frame.data
                whole, newline, pending = pending.rpartition(b"\n")
                if len(pending) > LINE_MOST:
                    raise SandboxFault
                if newline:
                    one = await self._heard(kind, one, whole + newline)
        return one

    async def _heard(self, kind: Kind, before: Companion, lines: bytes) -> Companion:
        after = before
        all_said = [said for line in lines.splitlines() if (said := read_said(line)) is not None]
        for said in all_said:
            after = heard(after, said)
        after = replace(after, heard_to=before.heard_to + len(lines), updated_at=self._steps.now_ms())
        await self._write(kind, before, after, all_said)
        for said in all_said:  # whoever ordered something finds written what came of it
            if said.event in ("done", "refused"):
                self._answered(said)
        await asyncio.sleep(CALM_S)
        return after

    def _answered(self, said: Said) -> None:
        for number, (_, _, waiting) in self._orders.items():
            if number == said.order and not waiting.done():
                waiting.set_result(said)

    def _unanswered(self, one: Companion) -> None:
        """Its process has ended: nobody is there who would answer what was ordered."""
        for sandbox, name, waiting in self._orders.values():
            if (sandbox, name) == (one.sandbox, one.name) and not waiting.done():
                waiting.set_exception(Conflict(f"The sandbox's {name} has ended"))

    async def _next(self, kind: Kind, one: Companion, failures: int) -> Companion:
        """After the end of its process: another is tried, unless too many have come to nothing."""
        after = replace(one.again(), updated_at=self._steps.now_ms())
        if failures >= FAILURES_MOST:
            after = replace(after, state=CompanionState.FAILED, reason=one.reason or "It ends as soon as it is started")
        await self._write(kind, one, after)
        return after

    async def _write(self, kind: Kind, before: Companion, after: Companion, said: Sequence[Said] = ()) -> None:
        event = None
        if after.state is not before.state and after.state is CompanionState.READY:
            event = kind.became_ready
        elif before.state is CompanionState.READY or after.state is CompanionState.FAILED:
            event = kind.became_failed if after.state is not before.state else None
        async with self._database.writing() as connection:
            if not await companions.change(connection, before, after, event, SYSTEM):
                raise NotReady  # somebody else attends to it, or it is no more
            if kind.hear is not None and said:
                await kind.hear(connection, after, said)
        if event is not None or kind.hear is not None:
            self._steps.tell_of(after.sandbox)


async def _whole(data: bytes) -> AsyncIterator[bytes]:
    yield data
