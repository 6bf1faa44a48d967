"""API keys: who holds one, making and revoking them, and the organisations and plans behind them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.control.steps import SYSTEM
from boxkeep_server.model.errors import Invalid, NotFound, Unauthenticated
from boxkeep_server.model.ids import key_digest, new_id, new_key
from boxkeep_server.model.plans import Plan
from boxkeep_server.model.scopes import Scope
from boxkeep_server.store import organisations
from boxkeep_server.store.database import Database
from boxkeep_server.store.organisations import Holder, Key, Organisation

REMEMBERED_MS = 500
"""How long a key is believed without asking the store: half of the second within which a revocation must hold."""

MOST_REMEMBERED = 10_000
DEFAULT_PLAN = "free"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking: an organisation, by one of its keys, with what key and plan allow."""

    organisation: str
    key_id: str
    scopes: frozenset[Scope]
    plan: Plan


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key as it is shown once."""

    id: str
    key: str


async def owner(database: Database, organisation: str) -> Caller:
    """An organisation for which something is done that is in its interest, and that nobody has asked for."""
    async with database.reading() as connection:
        return Caller(organisation, SYSTEM, frozenset(), await organisations.plan_of(connection, organisation))


class Keys:
    """The keys of all organisations. `now_ms` is the wall clock, `monotonic_ms` one that never goes back."""

    def __init__(self, database: Database, now_ms: Callable[[], int], monotonic_ms: Callable[[], float]) -> None:
        self._database = database
        self._now_ms = now_ms
        self._monotonic_ms = monotonic_ms
        self._remembered: dict[str, tuple[float, Caller]] = {}

    async def authenticate(self, key: str) -> Caller:
        """Whoever holds this key.

        Raises:
            Unauthenticated: nobody, or the key is revoked or expired.
        """
        digest = key_digest(key)
        remembered = self._remembered.get(digest)
        if remembered is not None and remembered[0] > self._monotonic_ms():
            return remembered[1]
        read_at = self._monotonic_ms()
        async with self._database.reading() as connection:
            holder = await organisations.holder_of_digest(connection, digest, self._now_ms())
        caller = _caller(holder)
        if len(self._remembered) >= MOST_REMEMBERED:
            self._remembered.clear()
        self._remembered[digest] = (read_at + REMEMBERED_MS, caller)
        return caller

    async def caller_of(self, key_id: str) -> Caller:
        """Whoever holds the key with this id.

        Raises:
            Unauthenticated: nobody, or the key is revoked or expired.
        """
        async with self._database.reading() as connection:
            return _caller(await organisations.holder_of_key(connection, key_id, self._now_ms()))

    async def create(
        self, organisation: str, plan: str | None, scopes: frozenset[Scope], expires_at: int | None = None
    ) -> NewKey:
        """A new key of the organisation with this name, which is made where there is none (on `plan`, free by default).

        A plan that is named and differs moves the organisation to it.

        Raises:
            Invalid: there is no such plan, or the name is unusable.
        """
        if not organisation or len(organisation) > 200 or not organisation.isprintable():
            raise Invalid("An organisation's name has 1 to 200 printable characters")
        now = self._now_ms()
        async with self._database.writing() as connection:
            if plan is not None and await organisations.plan_named(connection, plan) is None:
                raise Invalid(f"There is no plan {plan!r}")
            new = Organisation(new_id(), organisation, plan or DEFAULT_PLAN, now)
            found = await organisations.ensure_organisation(connection, new)
            if plan is not None and plan != found.plan:
                await organisations.set_plan(connection, found.id, plan)
            made = await _add_key(connection, found.id, scopes, expires_at, now)
        self._remembered.clear()
        return made

    async def rotate(self, key_id: str) -> NewKey:
        """A new key in place of a living one, with the same scopes and expiry; the old one is revoked.

        Raises:
            NotFound: there is no such key, or it lives no more.
        """
        now = self._now_ms()
        async with self._database.writing() as connection:
            old = await organisations.key_with_id(connection, key_id)
            expired = old is not None and old.expires_at is not None and old.expires_at <= now
            if old is None or expired or not await organisations.revoke_key(connection, key_id, now):
                raise NotFound(f"There is no living key {key_id!r}")
            made = await _add_key(connection, old.organisation, old.scopes, old.expires_at, now)
        self._remembered.clear()
        return made

    async def list(self, organisation: str | None = None) -> Sequence[Key]:
        """The keys of the organisation with this name, or of all.

        Raises:
            NotFound: there is no such organisation.
        """
        async with self._database.reading() as connection:
            found = None
            if organisation is not None:
                found = await organisations.organisation_named(connection, organisation)
                if found is None:
                    raise NotFound(f"There is no organisation {organisation!r}")
            return await organisations.keys_of(connection, None if found is None else found.id)

    async def revoke(self, key_id: str) -> None:
        """Revoke a key, effective everywhere within a second. May be repeated.

        Raises:
            NotFound: there is no such key.
        """
        async with self._database.writing() as connection:
            if await organisations.key_with_id(connection, key_id) is None:
                raise NotFound(f"There is no key {key_id!r}")
            await organisations.revoke_key(connection, key_id, self._now_ms())
        self._remembered.clear()

    async def organisations(self) -> Sequence[Organisation]:
        """Every organisation."""
        async with self._database.reading() as connection:
            return await organisations.all_organisations(connection)

    async def plans(self) -> Sequence[Plan]:
        """Every plan."""
        async with self._database.reading() as connection:
            return await organisations.all_plans(connection)

    async def put_plan(self, plan: Plan) -> None:
        """Write a plan, new or edited; it holds for every call from now on, for running sandboxes' hours too."""
        async with self._database.writing() as connection:
            await organisations.put_plan(connection, plan)
        self._remembered.clear()


async def _add_key(
    connection: AsyncConnection, organisation: str, scopes: frozenset[Scope], expires_at: int | None, now: int
) -> NewKey:
    key = new_key()
    record = Key(new_id(), organisation, key[-4:], scopes, now, expires_at, None)
    await organisations.add_key(connection, record, key_digest(key))
    return NewKey(record.id, key)


def _caller(holder: Holder | None) -> Caller:
    if holder is None:
        raise Unauthenticated
    return Caller(holder.key.organisation, holder.key.id, holder.key.scopes, holder.plan)
