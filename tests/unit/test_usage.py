"""Running time added up by sandbox, month and day, for any spans."""

import base64
import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxkeep_server.model.errors import Invalid
from boxkeep_server.model.hours import month_of
from boxkeep_server.model.usage import DAY_MS, Behind, Tally, day_of, hours, page

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


@given(st.dictionaries(st.text("abc", min_size=32, max_size=32), st.integers(1, 5), max_size=30), st.integers(1, 9))
def test_pages_show_each_sandbox_once_those_that_ran_longest_first(shares: dict[str, int], most: int) -> None:
    tally = Tally(5, 9, sandboxes=Counter(shares))
    shown: list[tuple[str, int]] = []
    behind = None
    while True:
        some, following = page(tally, behind, most)
        shown += some
        assert following is None or len(some) == most
        if following is None:
            break
        behind = Behind.read(following.cursor)
        assert behind == following
    assert shown == sorted(shares.items(), key=lambda one: (-one[1], one[0]))


def test_a_page_of_none_has_none_behind_it() -> None:
    assert page(Tally(5, 9, sandboxes=Counter(a=1)), None, 0) == ([], None)


@pytest.mark.parametrize(
    "key", ["1:2:3", f"1:2:{'a' * 32}", f"1:2:-3:{'a' * 32}", f"1:2:{'9' * 16}:{'a' * 32}", "\xff"]
)
def test_what_is_no_cursor_of_ours_is_refused(key: str) -> None:
    for cursor in (key, base64.urlsafe_b64encode(key.encode("latin-1")).decode()):
        with pytest.raises(Invalid):
            Behind.read(cursor)
