"""The figures of plans and rates are those that were promised, and a bucket holds to its rate."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxkeep_server.model.plans import BUILT_IN, HOUR_MS, LOWEST_WITH, PAIRED_BROWSER, RECORDING
from boxkeep_server.model.rates import RATES, Bucket, CallKind, Rate

PLANS = [
    ("free", 300_000, 1, 5, False),
    ("builder", 1_800_000, 3, 50, False),
    ("pro", 3_600_000, 10, 500, True),
    ("scale", 7_200_000, 50, 5_000, True),
]
PROMISED = {
    "create": (60, 20),
    "read": (600, 100),
    "delete": (120, 30),
    "exec": (300, 50),
    "terminal": (600, 100),
    "files": (300, 50),
    "prompt": (300, 50),
    "usage": (30, 10),
}


@pytest.mark.parametrize(("name", "duration_ms", "concurrent", "hours", "browser"), PLANS)
def test_a_plan_is_as_published(name: str, duration_ms: int, concurrent: int, hours: int, browser: bool) -> None:
    plan = BUILT_IN[name]
    assert (plan.max_duration_ms, plan.concurrent, plan.month_ms) == (duration_ms, concurrent, hours * HOUR_MS)
    assert ({PAIRED_BROWSER, RECORDING} <= plan.features) is browser
    assert LOWEST_WITH == {PAIRED_BROWSER: "pro", RECORDING: "pro"}


def test_rates_are_as_published() -> None:
    assert {kind.value: (rate.per_minute, rate.burst) for kind, rate in RATES.items()} == PROMISED
    assert RATES.keys() == {*CallKind}


@given(st.sampled_from([*RATES.values()]), st.lists(st.floats(0, 2), max_size=400))
@settings(max_examples=60)
def test_no_more_pass_than_the_burst_and_the_rate_allow(rate: Rate, gaps_s: list[float]) -> None:
    bucket, now_s, passed = Bucket.full(rate, 0.0), 0.0, 0
    for gap_s in gaps_s:
        now_s += gap_s
        passed += bucket.take(now_s) == 0
    assert passed <= rate.burst + now_s * rate.per_minute / 60 + 1e-3


@given(st.sampled_from([*RATES.values()]), st.floats(0, 1e6))
@settings(max_examples=60)
def test_who_waits_as_told_passes(rate: Rate, began_s: float) -> None:
    bucket = Bucket.full(rate, began_s)
    while (wait_s := bucket.take(began_s)) == 0:
        pass
    assert wait_s >= 1
    assert bucket.take(began_s + wait_s) == 0
