"""Decisions about webhooks: which events, when again, when no more."""

from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxkeep_server.model.events import INTERNAL, PUBLIC, EventType
from boxkeep_server.model.webhooks import (
    FAILING_FOR_MS,
    FIRST_DELAY_MS,
    LONGEST_DELAY_MS,
    RETRIED_FOR_MS,
    DisabledReason,
    Webhook,
    delivery_id,
    disabled_by,
    event_body,
    next_try,
    wanted_types,
)

NOW = 1_800_000_000_000
DAY = 24 * 3_600_000


def webhook(failing_since: int | None) -> Webhook:
    return Webhook("w" * 32, "o" * 32, "https://a.test/", None, None, True, None, None, failing_since, NOW)


@given(st.floats(0, 1))
def test_retries_grow_and_last_for_a_day(jitter: float) -> None:
    at, times = NOW, [NOW]
    for tries in range(1, 100):
        due = next_try(tries, at, NOW + RETRIED_FOR_MS, jitter)
        if due is None:
            break
        times.append(due)
        at = due
    gaps = [after - before for before, after in pairwise(times)]
    assert FIRST_DELAY_MS * 0.75 <= gaps[0] <= FIRST_DELAY_MS * 1.25
    assert gaps == sorted(gaps)
    assert gaps[-1] <= LONGEST_DELAY_MS * 1.25
    assert DAY - LONGEST_DELAY_MS * 1.25 <= times[-1] - NOW < DAY
    assert 10 <= len(times) <= 20


def test_jitter_spreads_what_failed_together() -> None:
    assert len({next_try(3, NOW, NOW + DAY, part / 10) for part in range(10)}) == 10


def test_three_days_of_failures_or_a_410_disable() -> None:
    assert disabled_by(webhook(None), 500, NOW) is None
    assert disabled_by(webhook(NOW - FAILING_FOR_MS + 1), 500, NOW) is None
    assert disabled_by(webhook(NOW - FAILING_FOR_MS), None, NOW) is DisabledReason.FAILING
    assert disabled_by(webhook(None), 410, NOW) is DisabledReason.GONE


def test_types_are_taken_by_name_and_all_where_there_is_none() -> None:
    assert wanted_types(None) is None
    assert wanted_types(["*", "sandbox.ready"]) is None
    assert wanted_types(["sandbox.failed", "sandbox.ready"]) == (EventType.READY, EventType.FAILED)
    for name in ("sandbox.unknown", *INTERNAL):
        with pytest.raises(ValueError, match=str(name)):
            wanted_types(["sandbox.ready", str(name)])


def test_the_steps_of_the_contract_are_sent() -> None:
    named = {"created", "assigned", "ready", "paused", "resumed", "ending", "ended", "failed"}
    assert {f"sandbox.{name}" for name in named} <= {str(event) for event in PUBLIC}


def test_a_message_is_the_event_and_owed_to_a_webhook_once() -> None:
    body = orjson.loads(event_body("s" * 32, 7, EventType.ENDED, NOW, {"status": "ended", "reason": "expired"}))
    assert body == {
        "id": f"evt_{'s' * 32}_7",
        "type": "sandbox.ended",
        "timestamp": NOW,
        "sequence": 7,
        "data": {"id": "s" * 32, "status": "ended", "reason": "expired"},
    }
    assert delivery_id("a", "m") == delivery_id("a", "m") != delivery_id("b", "m")
