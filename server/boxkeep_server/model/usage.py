"""What an organisation has used: spans of running time, added up by sandbox, month and day of UTC."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from heapq import nsmallest

from boxkeep_server.model.cursors import decoded, encoded
from boxkeep_server.model.hours import month_of
from boxkeep_server.model.plans import Plan

DAY_MS = 86_400_000


@dataclass(slots=True)
class Tally:
    """Running time within [since, until), epoch ms, to the millisecond: each way of adding it up gives the same sum."""

    since: int
    until: int
    ms: int = 0
    sandboxes: Counter[str] = field(default_factory=Counter)
    months: Counter[str] = field(default_factory=Counter)
    days: Counter[str] = field(default_factory=Counter)

    def add(self, sandbox: str, start: int, end: int) -> None:
        """Count a span; what lies outside is left out."""
        at, end = max(start, self.since), min(end, self.until)
        while at < end:
            number = at // DAY_MS
            until = min(end, (number + 1) * DAY_MS)
            month, day = _names(number)
            ms = until - at
            self.ms += ms
            self.sandboxes[sandbox] += ms
            self.months[month] += ms
            self.days[day] += ms
            at = until


@dataclass(frozen=True, slots=True)
class Behind:
    """Where a page of usage goes on: in the stretch of the first page, behind a sandbox and its share.

    The first page is of what ran until then. So shares and their order stay as they were, whatever runs on meanwhile.
    """

    since: int
    until: int
    ms: int
    sandbox: str

    @classmethod
    def read(cls, cursor: str) -> "Behind":
        """What a cursor was made of.

        Raises:
            Invalid: it is none of ours.
        """
        (since, until, ms), sandbox = decoded(cursor, 3)
        return cls(since, until, ms, sandbox)

    @property
    def cursor(self) -> str:
        """The same, opaque to clients."""
        return encoded((self.since, self.until, self.ms), self.sandbox)


@dataclass(frozen=True, slots=True)
class Usage:
    """Running time within a stretch of time, a page of the sandboxes that ran, those that ran longest first, where that
    goes on, and how many sandboxes were created in it."""

    tally: Tally
    sandboxes: Sequence[tuple[str, int]]
    behind: Behind | None
    created: int


@dataclass(frozen=True, slots=True)
class Billing:
    """An organisation's plan, what it has used of it in the month of now, and in the months before (ms by `YYYY-MM`).

    `paused` is the number of its paused sandboxes, `stored_bytes` what is kept of them and of artifacts.
    """

    plan: Plan
    start: int
    end: int
    used_ms: int
    months: Mapping[str, int]
    paused: int
    stored_bytes: int

    @property
    def remaining_ms(self) -> int | None:
        """What is left of the month's hours, None without a limit."""
        return None if self.plan.month_ms is None else max(0, self.plan.month_ms - self.used_ms)


def day_of(at_ms: int) -> str:
    """The UTC day of a time, as `YYYY-MM-DD`."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d")


@lru_cache(1024)
def _names(number: int) -> tuple[str, str]:
    """The month and the day of the so manyth UTC day: naming them is most of what adding up a span would cost."""
    at = number * DAY_MS
    return month_of(at), day_of(at)


def hours(ms: int) -> str:
    """Ms as decimal hours, exact to six places and rounded to the nearest."""
    whole, rest = divmod(ms, 3_600_000)
    millionths = (rest * 1_000_000 + 1_800_000) // 3_600_000
    return f"{whole + millionths // 1_000_000}.{millionths % 1_000_000:06d}"


def page(tally: Tally, behind: Behind | None, most: int) -> tuple[Sequence[tuple[str, int]], Behind | None]:
    """Sandboxes with their shares, the largest first, at most so many of those behind; and where it goes on."""
    after = None if behind is None else (-behind.ms, behind.sandbox)
    waiting = [key for key in ((-ms, one) for one, ms in tally.sandboxes.items()) if after is None or key > after]
    shown = [(one, -ms) for ms, one in nsmallest(most, waiting)]
    if not shown or len(waiting) == len(shown):
        return shown, None
    last, ms = shown[-1]
    return shown, Behind(tally.since, tally.until, ms, last)
