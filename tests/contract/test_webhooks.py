"""Webhooks from the event to a real receiver, on both databases: owed with the event, sent until acknowledged."""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from boxkeep_server.control.changes import Changes
from boxkeep_server.control.keys import Caller
from boxkeep_server.control.reconcile.deliver import AT_ONCE_OF_WEBHOOK, CLAIMED_FOR_MS, Deliver
from boxkeep_server.control.steps import Steps
from boxkeep_server.control.webhooks import NewWebhook, Webhooks
from boxkeep_server.model.errors import LimitReached
from boxkeep_server.model.events import EventType
from boxkeep_server.model.ids import new_id
from boxkeep_server.model.sandboxes import NewSandbox, Sandbox
from boxkeep_server.model.statuses import Status
from boxkeep_server.model.webhooks import FAILING_FOR_MS, Delivery, DeliveryState, DisabledReason
from boxkeep_server.outbound.addresses import Reach
from boxkeep_server.outbound.post import Poster
from boxkeep_server.store import deliveries as rows
from boxkeep_server.store import sandboxes
from boxkeep_server.store.database import Database
from boxkeep_server.store.sealing import Seal
from tests.controls import Rig, store_at
from tests.engines import Clock, MemoryEngine
from tests.receivers import Receiver, receiving, until

PAGE = Path(__file__).resolve().parent.parent.parent / "docs/how-to/webhooks.md"
DAY = 24 * 3_600_000
REACH = Reach(["127.0.0.0/8"])
SEAL = Seal(b"k" * 32)


async def _resolve(host: str, port: int) -> Sequence[str]:
    return [host]


def deliverer(database: Database, clock: Clock, whole_s: float = 10.0, seal: Seal = SEAL) -> Deliver:
    """One process' sender."""
    steps = Steps(database, Changes(), clock)
    poster = Poster(REACH, _resolve, ssl.create_default_context(), whole_s)
    return Deliver(database, steps, seal, poster, random.Random(1).random)


class Office:
    """Everything between a sandbox and a receiver; the test says when."""

    def __init__(self, database: Database, clock: Clock, whole_s: float = 10.0) -> None:
        self.database, self.clock = database, clock
        self.rig = Rig(database, MemoryEngine(clock), clock)
        self.webhooks = Webhooks(database, Changes(), SEAL, REACH, clock)
        self.deliver = deliverer(database, clock, whole_s)

    async def lived(self, caller: Caller) -> Sandbox:
        """A sandbox that was created, ready, and ended."""
        made = await self.rig.sandboxes.create(caller, NewSandbox(env={"TOKEN": "hidden"}))
        await self.rig.round()
        await self.rig.sandboxes.end(caller, made.id)
        await self.rig.round()
        return await self.rig.sandboxes.get(caller, made.id)

    async def send(self) -> int:
        """Send until nothing more is due; how many attempts that took."""
        count = 0
        while begun := await self.deliver.run_once():
            await self.deliver.crowd.settled()
            count += begun
        return count

    async def owed(self, caller: Caller, made: NewWebhook) -> Sequence[Delivery]:
        """What is known of a webhook's deliveries, oldest first."""
        page = await self.webhooks.deliveries(caller, made.webhook.id, None, 200)
        return sorted(page.items, key=lambda one: (one.sandbox or "", one.sequence or 0))

    async def hook(
        self, caller: Caller, url: str, types: tuple[EventType, ...] | None = None, webhook_id: str | None = None
    ) -> NewWebhook:
        """A webhook."""
        return await self.webhooks.create(caller, url, types, None, webhook_id)


@pytest.fixture
async def office(database: Database) -> Office:
    return Office(database, Clock())


@pytest.fixture
async def caller(office: Office) -> Caller:
    return await office.rig.caller()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as listening:
        yield listening


def verifier() -> Any:
    """The function that the how-to gives to whoever receives."""
    code = PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)
    return names["verified"]


STEPS = ["sandbox.created", "sandbox.assigned", "sandbox.ready", "sandbox.ending", "sandbox.ended"]


async def test_a_life_is_told_in_order_and_signed(office: Office, caller: Caller, receiver: Receiver) -> None:
    made = await office.hook(caller, receiver.url("/ok"))
    sandbox = await office.lived(caller)
    assert await office.send() == len(STEPS)
    told = receiver.told("/ok")
    assert [one["type"] for one in told] == STEPS
    assert [one["sequence"] for one in told] == sorted(one["sequence"] for one in told)
    assert {one["data"]["id"] for one in told} == {sandbox.id}
    assert told[-1]["data"]["reason"] == "user_request"
    for got in receiver.got:
        assert got.headers["content-type"] == "application/json"
        at_s = office.clock() // 1000
        assert verifier()(made.secret, got.headers, got.body, now=at_s) == got.said
        assert b"hidden" not in got.body
        assert got.headers["webhook-id"] == got.said["id"]
    assert {one.state for one in await office.owed(caller, made)} == {DeliveryState.DELIVERED}
    assert await office.send() == 0


async def test_the_verification_of_the_page_refuses_what_was_changed_or_is_old(
    office: Office, caller: Caller, receiver: Receiver
) -> None:
    made = await office.hook(caller, receiver.url("/ok"))
    await office.webhooks.test(caller, made.webhook.id)
    await office.send()
    (got,) = receiver.got
    verified, at_s = verifier(), office.clock() // 1000
    other = (await office.webhooks.rotate(caller, made.webhook.id)).secret
    for secret, body, now in (
        (made.secret, got.body + b" ", at_s),
        (other, got.body, at_s),
        (made.secret, got.body, at_s + 301),
    ):
        with pytest.raises(ValueError, match=r".+"):
            verified(secret, got.headers, body, now=now)


async def test_only_the_types_that_were_asked_for_are_owed(office: Office, caller: Caller, receiver: Receiver) -> None:
    await office.hook(caller, receiver.url("/some"), (EventType.READY, EventType.ENDED))
    await office.hook(await office.rig.caller("other"), receiver.url("/foreign"))
    await office.lived(caller)
    await office.send()
    assert [one["type"] for one in receiver.told("/some")] == ["sandbox.ready", "sandbox.ended"]
    assert receiver.told("/foreign") == []


async def test_an_event_that_is_undone_is_owed_to_nobody(office: Office, caller: Caller, receiver: Receiver) -> None:
    made = await office.hook(caller, receiver.url("/ok"))
    sandbox = await office.rig.sandboxes.create(caller, NewSandbox())

    async def undone() -> None:
        async with office.database.writing() as connection:
            assert await sandboxes.step(
                connection, sandbox, Status.ENDING, event=EventType.ENDING, at=office.clock(), actor="me", reason="x"
            )
            assert await rows.waited_for(connection, office.clock())
            raise RuntimeError

    await office.send()
    with pytest.raises(RuntimeError):
        await undone()
    assert [one.type for one in await office.owed(caller, made)] == ["sandbox.created"]


async def test_an_event_that_becomes_visible_late_is_not_lost(postgresql_url: str, receiver: Receiver) -> None:
    async with store_at(postgresql_url) as database:
        office = Office(database, Clock())
        caller = await office.rig.caller()
        await office.hook(caller, receiver.url("/ok"), (EventType.ENDING,))
        slow, quick = [await office.rig.sandboxes.create(caller, NewSandbox()) for _ in range(2)]
        async with database.writing() as connection:
            assert await sandboxes.step(
                connection, slow, Status.ENDING, event=EventType.ENDING, at=office.clock(), actor="me", reason="x"
            )
            await office.rig.sandboxes.end(caller, quick.id)
            await office.send()
            assert [one["data"]["id"] for one in receiver.told("/ok")] == [quick.id]
        await office.send()
        assert [one["data"]["id"] for one in receiver.told("/ok")] == [quick.id, slow.id]


async def test_one_that_fails_is_tried_again_and_holds_up_none(
    office: Office, caller: Caller, receiver: Receiver
) -> None:
    made = await office.hook(caller, receiver.url("/ok"))
    sandbox = await office.rig.sandboxes.create(caller, NewSandbox())
    receiver.broken.add(f"evt_{sandbox.id}_1")
    await office.rig.round()
    await office.send()
    assert [one["sequence"] for one in receiver.told("/ok")] == [1, 2, 3]
    failed, *others = await office.owed(caller, made)
    assert (failed.state, failed.attempts, failed.status) == (DeliveryState.PENDING, 1, 500)
    assert failed.error == "Answered 500"
    assert {one.state for one in others} == {DeliveryState.DELIVERED}
    receiver.broken.clear()
    assert failed.due_at is not None
    office.clock.at = failed.due_at - 1
    assert await office.send() == 0
    office.clock.at = failed.due_at
    assert await office.send() == 1
    first, last = receiver.got[0], receiver.got[-1]
    assert (first.body, first.headers["webhook-id"]) == (last.body, last.headers["webhook-id"])
    assert first.headers["webhook-timestamp"] != last.headers["webhook-timestamp"]
    assert (await office.owed(caller, made))[0].state is DeliveryState.DELIVERED


async def test_nothing_newer_of_a_sandbox_is_sent_before_the_older_was_tried(
    office: Office, caller: Caller, receiver: Receiver
) -> None:
    await office.hook(caller, receiver.url("/stall"))
    first = await office.lived(caller)
    second = await office.lived(caller)
    for _ in range(3):
        await office.deliver.run_once()
    await until(lambda: receiver.stalling == 2)
    told = receiver.told("/stall")
    assert {one["data"]["id"] for one in told} == {first.id, second.id}
    assert {one["sequence"] for one in told} == {1}
    receiver.released.set()
    await office.deliver.crowd.settled()
    await office.send()
    for sandbox in (first, second):
        seen = [one["type"] for one in receiver.told("/stall") if one["data"]["id"] == sandbox.id]
        assert seen == STEPS


async def test_a_day_of_failures_is_given_up_and_can_be_asked_for_again(
    office: Office, caller: Caller, receiver: Receiver
) -> None:
    made = await office.hook(caller, receiver.url("/broken"), (EventType.CREATED,))
    begun = office.clock()
    await office.rig.sandboxes.create(caller, NewSandbox())
    attempts = 0
    while (owed := (await office.owed(caller, made))[0]).due_at is not None:
        office.clock.at = owed.due_at
        attempts += await office.send()
    assert (owed.state, owed.attempts) == (DeliveryState.FAILED, attempts)
    assert begun + DAY * 3 // 4 < office.clock() < begun + DAY
    assert 10 < attempts == len(receiver.got)
    office.clock.at += DAY
    await office.webhooks.change(caller, made.webhook.id, url=receiver.url("/ok"))
    again = await office.webhooks.redeliver(caller, owed.id)
    assert again.state is DeliveryState.PENDING
    await office.send()
    assert (await office.owed(caller, made))[0].state is DeliveryState.DELIVERED
    assert receiver.told("/ok") == receiver.told("/broken")[:1]


ERRORS = {
    "/broken": "Answered 500",
    "/redirect": "Answered 307",
    "/close": "The connection ended",
    "/garbage": "The answer is not",
    "/head": "The answer's head",
    "/stall": "No answer within",
}


@pytest.mark.parametrize("path", ERRORS)
async def test_whatever_a_receiver_does_is_seen_on_the_delivery(
    database: Database, receiver: Receiver, path: str
) -> None:
    office = Office(database, Clock(), whole_s=0.2 if path == "/stall" else 10.0)
    caller = await office.rig.caller()
    made = await office.hook(caller, receiver.url(path))
    await office.webhooks.test(caller, made.webhook.id)
    assert await office.send() == 1
    (owed,) = await office.owed(caller, made)
    assert (owed.state, owed.attempts) == (DeliveryState.PENDING, 1)
    assert owed.error is not None
    assert owed.error.startswith(ERRORS[path])
    assert (await office.webhooks.get(caller, made.webhook.id)).failing_since == office.clock()
    assert {one.path for one in receiver.got} == {path}


async def test_a_stalling_receiver_holds_up_nobody_else(office: Office, caller: Caller, receiver: Receiver) -> None:
    for _ in range(3):
        await office.hook(caller, receiver.url("/stall"), (EventType.CREATED,))
    for _ in range(8):
        await office.rig.sandboxes.create(caller, NewSandbox())
    other = await office.rig.caller("other")
    await office.hook(other, receiver.url("/ok"))
    await office.deliver.run_once()
    await until(lambda: receiver.stalling > AT_ONCE_OF_WEBHOOK)
    await office.lived(other)
    while len(receiver.told("/ok")) < len(STEPS):
        await office.deliver.run_once()
        await asyncio.sleep(0.01)
    assert not receiver.released.is_set()
    assert receiver.stalling == 2 * AT_ONCE_OF_WEBHOOK
    receiver.released.set()
    await office.deliver.crowd.settled()
    await office.send()
    assert len(receiver.told("/stall")) == 24


async def test_a_sender_killed_at_its_work_loses_nothing_and_repeats_only_what_was_open(
    office: Office, caller: Caller, receiver: Receiver
) -> None:
    stalled = await office.hook(caller, receiver.url("/stall"), (EventType.CREATED,))
    done = await office.hook(caller, receiver.url("/ok"), (EventType.CREATED,))
    await office.rig.sandboxes.create(caller, NewSandbox())
    await office.deliver.run_once()
    await until(lambda: receiver.stalling == 1 and receiver.told("/ok"))
    while (await office.owed(caller, done))[0].state is DeliveryState.PENDING:
        await asyncio.sleep(0.01)
    await office.deliver.crowd.close()
    receiver.released.set()
    office.deliver = deliverer(office.database, office.clock)
    assert await office.send() == 0
    office.clock.at += CLAIMED_FOR_MS
    assert await office.send() == 1
    assert receiver.told("/stall") == receiver.told("/ok") * 2
    assert (await office.owed(caller, stalled))[0].state is DeliveryState.DELIVERED


async def test_two_senders_at_once_send_each_message_once(office: Office, caller: Caller, receiver: Receiver) -> None:
    await office.hook(caller, receiver.url("/ok"))
    for _ in range(3):
        await office.lived(caller)
    senders = [deliverer(office.database, office.clock) for _ in range(4)]
    while len(receiver.got) < 3 * len(STEPS):
        await asyncio.gather(*(sender.run_once() for sender in senders))
        for sender in senders:
            await sender.crowd.settled()
    ids = [one["id"] for one in receiver.told("/ok")]
    assert len(ids) == len({*ids}) == 3 * len(STEPS)


async def test_a_410_disables_and_what_then_happens_is_not_sent(
    office: Office, caller: Caller, receiver: Receiver
) -> None:
    made = await office.hook(caller, receiver.url("/gone"))
    await office.lived(caller)
    await office.deliver.run_once()
    await office.deliver.crowd.settled()
    off = await office.webhooks.get(caller, made.webhook.id)
    assert (off.enabled, off.disabled_reason, off.disabled_at) == (False, DisabledReason.GONE, office.clock())
    assert await office.send() == 0
    await office.lived(caller)
    assert len(await office.owed(caller, made)) == len(STEPS)
    on = await office.webhooks.change(caller, made.webhook.id, enabled=True, url=receiver.url("/ok"))
    assert (on.enabled, on.disabled_reason, on.disabled_at, on.failing_since) == (True, None, None, None)
    office.clock.at += DAY // 2
    await office.send()
    assert sorted(one["type"] for one in receiver.told("/ok")) == sorted(STEPS)


async def test_three_days_without_one_success_disable(office: Office, caller: Caller, receiver: Receiver) -> None:
    made = await office.hook(caller, receiver.url("/broken"))
    await office.webhooks.test(caller, made.webhook.id)
    await office.send()
    office.clock.at += FAILING_FOR_MS - 1
    await office.webhooks.test(caller, made.webhook.id)
    await office.send()
    assert (await office.webhooks.get(caller, made.webhook.id)).enabled
    office.clock.at += 1
    await office.webhooks.test(caller, made.webhook.id)
    await office.send()
    assert (await office.webhooks.get(caller, made.webhook.id)).disabled_reason is DisabledReason.FAILING


async def test_one_success_ends_the_failing(office: Office, caller: Caller, receiver: Receiver) -> None:
    made = await office.hook(caller, receiver.url("/broken"))
    await office.webhooks.test(caller, made.webhook.id)
    await office.send()
    await office.webhooks.change(caller, made.webhook.id, url=receiver.url("/ok"))
    await office.webhooks.test(caller, made.webhook.id)
    await office.send()
    assert (await office.webhooks.get(caller, made.webhook.id)).failing_since is None


async def test_after_a_rotation_both_secrets_verify_for_a_day(
    office: Office, caller: Caller, receiver: Receiver
) -> None:
    made = await office.hook(caller, receiver.url("/ok"))
    rotated = await office.webhooks.rotate(caller, made.webhook.id)
    assert rotated.secret != made.secret
    for _ in range(2):
        await office.webhooks.test(caller, made.webhook.id)
        await office.send()
        office.clock.at += DAY
    during, after = receiver.got
    at_s = office.clock() // 1000
    for secret in (made.secret, rotated.secret):
        verifier()(secret, during.headers, during.body, now=at_s - 2 * DAY // 1000)
    verifier()(rotated.secret, after.headers, after.body, now=at_s - DAY // 1000)
    with pytest.raises(ValueError, match=r".+"):
        verifier()(made.secret, after.headers, after.body, now=at_s - DAY // 1000)


async def test_another_key_file_sends_nothing_and_says_so(office: Office, caller: Caller, receiver: Receiver) -> None:
    made = await office.hook(caller, receiver.url("/ok"))
    await office.webhooks.test(caller, made.webhook.id)
    office.deliver = deliverer(office.database, office.clock, seal=Seal(b"o" * 32))
    await office.send()
    (owed,) = await office.owed(caller, made)
    assert owed.error == "The signing secret is lost: rotate it"
    assert receiver.got == []


async def test_the_database_alone_tells_no_secret(office: Office, caller: Caller, receiver: Receiver) -> None:
    made = await office.hook(caller, receiver.url("/ok"))
    async with office.database.reading() as connection:
        row = (await connection.exec_driver_sql("SELECT * FROM webhooks")).one()
    stored = b"".join(bytes(value) if isinstance(value, (bytes, memoryview)) else str(value).encode() for value in row)
    assert made.webhook.url.encode() in stored
    assert SEAL.open(bytes(row.sealed), f"webhook:{made.webhook.id}")
    assert SEAL.open(bytes(row.sealed), f"webhook:{made.webhook.id}") not in stored
    assert made.secret.encode() not in stored


async def test_old_deliveries_are_forgotten_and_late_ones_of_disabled_webhooks_given_up(
    office: Office, caller: Caller, receiver: Receiver
) -> None:
    made = await office.hook(caller, receiver.url("/ok"))
    off = await office.hook(caller, receiver.url("/off"))
    await office.rig.sandboxes.create(caller, NewSandbox())
    await office.webhooks.change(caller, off.webhook.id, enabled=False)
    await office.send()
    office.rig.collect._deliveries_kept_ms = 2 * DAY
    office.clock.at += DAY
    await office.rig.collect.run_once()
    assert [one.state for one in await office.owed(caller, made)] == [DeliveryState.DELIVERED]
    (given_up,) = await office.owed(caller, off)
    assert (given_up.state, given_up.error) == (DeliveryState.FAILED, "The webhook was disabled")
    office.clock.at += DAY + 1
    await office.rig.collect.run_once()
    assert await office.owed(caller, made) == await office.owed(caller, off) == []


async def test_a_webhook_that_is_deleted_takes_what_it_was_sent_with_it(
    office: Office, caller: Caller, receiver: Receiver
) -> None:
    made = await office.hook(caller, receiver.url("/ok"))
    sandbox = await office.rig.sandboxes.create(caller, NewSandbox())
    owed = await office.owed(caller, made)
    await office.webhooks.delete(caller, made.webhook.id)
    assert await office.send() == 0
    async with office.database.reading() as connection:
        assert [await rows.get(connection, one.id) for one in owed] == [None]
    assert (await office.rig.sandboxes.end(caller, sandbox.id)).status is Status.ENDING


async def test_the_number_of_webhooks_holds_under_a_race(office: Office, caller: Caller) -> None:
    wishes = [office.hook(caller, "https://example.com/") for _ in range(25)]
    made = await asyncio.gather(*wishes, return_exceptions=True)
    assert sum(isinstance(one, NewWebhook) for one in made) == 20
    assert sum(isinstance(one, LimitReached) for one in made) == 5
    assert len(await office.webhooks.list(caller)) == 20


async def test_the_same_wish_again_makes_one_webhook_with_one_secret(office: Office, caller: Caller) -> None:
    name = new_id()
    first = await office.hook(caller, "https://example.com/", None, name)
    assert await office.hook(caller, "https://example.com/", None, name) == first
    assert len(await office.webhooks.list(caller)) == 1
