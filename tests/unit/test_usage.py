"""Running time added up by sandbox, month and day, for any spans."""

import itertools
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from boxkeep_server.model.hours import month_of
from boxkeep_server.model.usage import DAY_MS, Tally, day_of, hours, largest

NOW = 1_790_000_000_000
TIMES = st.integers(NOW - 100 * DAY_MS, NOW + 100 * DAY_MS)
SPANS = st.lists(st.tuples(st.sampled_from("abc"), TIMES, TIMES), max_size=20)


@given(SPANS, TIMES, TIMES)
def test_each_way_of_adding_up_gives_the_whole(spans: list[tuple[str, int, int]], since: int, until: int) -> None:
    tally = Tally(since, until)
    for sandbox, start, end in spans:
        tally.add(sandbox, start, end)
    whole = sum(max(0, min(end, until) - max(start, since)) for _, start, end in spans)
    assert tally.ms == whole
    assert tally.sandboxes.total() == tally.months.total() == tally.days.total() == whole


@given(SPANS, st.lists(TIMES, min_size=2, max_size=5))
def test_stretches_that_follow_each_other_add_up(spans: list[tuple[str, int, int]], cuts: list[int]) -> None:
    cuts = sorted(cuts)
    parts = [Tally(since, until) for since, until in itertools.pairwise(cuts)]
    whole = Tally(cuts[0], cuts[-1])
    for tally in (*parts, whole):
        for sandbox, start, end in spans:
            tally.add(sandbox, start, end)
    assert sum((part.days for part in parts), Counter()) == whole.days
    assert sum(part.ms for part in parts) == whole.ms


def test_a_span_over_midnight_at_a_months_end_is_split() -> None:
    begin = 1_793_491_200_000  # 2026-11-01
    tally = Tally(0, 1 << 50)
    tally.add("a", begin - 1000, begin + 2000)
    assert tally.days == {"2026-10-31": 1000, "2026-11-01": 2000}
    assert tally.months == {"2026-10": 1000, "2026-11": 2000}
    assert (month_of(begin), day_of(begin)) == ("2026-11", "2026-11-01")


def test_hours_are_decimal() -> None:
    assert hours(0) == "0.000000"
    assert hours(3_600_000) == "1.000000"
    assert hours(1) == "0.000000"
    assert hours(2) == "0.000001"
    assert hours(3_599_999) == "1.000000"
    assert hours(5_400_000) == "1.500000"


def test_the_largest_come_first() -> None:
    assert largest(Counter(a=1, b=3, c=3), 2) == [("b", 3), ("c", 3)]
