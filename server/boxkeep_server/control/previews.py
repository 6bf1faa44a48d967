"""Previews: what listens in a sandbox, which of it is open to everybody, and the way to it."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Annotated, Final

from pydantic import Field, IPvAnyAddress

from boxkeep_server.control.inside import Count, FromGuest, read_as
from boxkeep_server.control.keys import Caller
from boxkeep_server.control.sandboxes import Sandboxes
from boxkeep_server.control.steps import Steps
from boxkeep_server.control.visits import Duplex, Visits
from boxkeep_server.model.errors import Conflict, LimitReached
from boxkeep_server.model.previews import MOST_PUBLIC
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.model.statuses import OVER, Status
from boxkeep_server.store import ports, sandboxes
from boxkeep_server.store.database import Database

LISTENERS_MOST: Final = 1000


class NothingListens(Conflict):
    """No program in the sandbox takes connections on the port."""

    def __init__(self, port: int) -> None:
        super().__init__(f"Nothing listens on port {port}")


class Listener(FromGuest):
    """A socket that takes connections, as the guest tells it, and the process that holds it where that is known."""

    address: IPvAnyAddress
    port: Annotated[int, Field(ge=1, le=65535)]
    pid: Count | None = None
    process: Annotated[str, Field(max_length=64)] | None = None


class _Listeners(FromGuest):
    listeners: Annotated[list[Listener], Field(max_length=LISTENERS_MOST)]


class Previews:
    """The use cases."""

    def __init__(self, database: Database, steps: Steps, those: Sandboxes, visits: Visits) -> None:
        self._database = database
        self._steps = steps
        self._sandboxes = those
        self._visits = visits

    async def listeners(self, caller: Caller, sandbox_id: str) -> Sequence[Listener]:
        """What listens in a ready sandbox, by port.

        Raises:
            SandboxNotFound, NotReady, SandboxFault, Unavailable, TimedOut: as every call into a sandbox.
        """
        visit = await self._visits.begin(caller, sandbox_id)
        return read_as(_Listeners, await visit.call({"op": "port.list"})).listeners

    async def sandbox(self, sandbox_id: str) -> Sandbox | None:
        """A sandbox as it is now, whoever it belongs to."""
        return await self._sandboxes.state(sandbox_id)

    async def public(self, sandbox_id: str) -> AbstractSet[int]:
        """The ports of a sandbox that are open to everybody."""
        async with self._database.reading() as connection:
            return await ports.public(connection, sandbox_id)

    async def publish(self, caller: Caller, sandbox_id: str, port: int, *, public: bool) -> None:
        """Open a port of a sandbox to everybody, or close it again; may be repeated.

        Raises:
            SandboxNotFound: there is none, or it is another's.
            Conflict: it has ended.
            LimitReached: a hundred of its ports are open.
        """
        sandbox = await self._sandboxes.get(caller, sandbox_id)
        now = self._steps.now_ms()
        async with self._database.writing() as connection:
            change = ports.publish if public else ports.withdraw
            changed = await change(connection, sandbox, port, now, caller.key_id)
            still = await sandboxes.get(connection, sandbox_id)
            if public and (still is None or still.status is Status.ENDING or still.status in OVER):
                raise Conflict("Sandbox has ended")
            if public and len(await ports.public(connection, sandbox_id)) > MOST_PUBLIC:
                raise LimitReached(f"At most {MOST_PUBLIC} ports of a sandbox can be public")
        if changed:
            self._steps.tell_of(sandbox_id)

    async def dial(self, sandbox: Sandbox, port: int, actor: str) -> Duplex:
        """A connection to what listens on a port, in the name of `actor`, who may go there. Close it when done.

        Raises:
            NothingListens: no program takes connections there.
            NotReady, LimitReached, SandboxFault, Unavailable, TimedOut: as every call into a sandbox.
        """
        visit = await self._visits.enter(sandbox, actor)
        if port == visit.address.port:
            raise NothingListens(port)  # but our own guest, which is none of the user's programs
        try:
            return await visit.duplex({"op": "port.dial", "port": port})
        except Conflict as refused:
            if type(refused) is not Conflict:
                raise
            raise NothingListens(port) from refused

    def used(self, sandbox: Sandbox) -> None:
        """Note that somebody looks at a sandbox."""
        self._visits.used(sandbox)
