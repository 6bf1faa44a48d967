"""Keys whose work could not write how it ended, over both databases."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.control.idempotency import Answer, Idempotency, Slot
from boxkeep_server.model.errors import Unavailable
from boxkeep_server.store.database import Database
from tests.controls import store_at

DAY_MS = 86_400_000
NAME = ("o" * 32, "create", "key", "same")


class Flaky:
    """A store that is away for writing while it is told to be."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.away = False
        self.reading = database.reading

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """As a database's."""
        async with self.database.writing() as connection:
            yield connection
            if self.away:
                raise Unavailable("The store is away")


@pytest.fixture
async def flaky(store_url: str) -> AsyncIterator[Flaky]:
    async with store_at(store_url) as opened:
        yield Flaky(opened)


@pytest.fixture
def keys(flaky: Flaky) -> Idempotency:
    return Idempotency(flaky, lambda: 1_800_000_000_000, DAY_MS)  # type: ignore[arg-type]


async def test_work_that_could_not_write_how_it_ended_is_done_again_at_once(flaky: Flaky, keys: Idempotency) -> None:
    slot = await keys.begin(*NAME)
    assert isinstance(slot, Slot)
    flaky.away = True
    with pytest.raises(Unavailable):
        await keys.complete(slot, Answer(200, b"{}"))
    with pytest.raises(Unavailable):
        await keys.give_up(slot)
    flaky.away = False
    async with asyncio.timeout(5):
        assert await keys.begin(*NAME) == slot, "with the same id, so that nothing is made twice"


async def test_nobody_else_begins_between_an_answer_that_was_not_kept_and_giving_up(
    flaky: Flaky, keys: Idempotency
) -> None:
    slot = await keys.begin(*NAME)
    assert isinstance(slot, Slot)
    flaky.away = True
    with pytest.raises(Unavailable):
        await keys.complete(slot, Answer(200, b"{}"))
    flaky.away = False
    other = asyncio.create_task(keys.begin(*NAME))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not other.done()
    await keys.give_up(slot)
    assert await other == slot


async def test_a_key_that_could_not_be_taken_is_free(flaky: Flaky, keys: Idempotency) -> None:
    flaky.away = True
    with pytest.raises(Unavailable):
        await keys.begin(*NAME)
    flaky.away = False
    async with asyncio.timeout(5):
        slots = await asyncio.gather(keys.begin(*NAME), _later(keys))
    assert [isinstance(one, Slot) for one in slots] == [True, False]


async def _later(keys: Idempotency) -> object:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            return await keys.begin(*NAME)
    return None
