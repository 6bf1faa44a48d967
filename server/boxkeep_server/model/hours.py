"""Sandbox hours, computed from events alone: ms that a sandbox ran, split at UTC month boundaries."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time that a sandbox ran, epoch ms; `end` None while it still runs."""

    start: int
    end: int | None

    @property
    def ms(self) -> int:
        """How long it was, 0 while it is not over."""
        return 0 if self.end is None else self.end - self.start


def month_of(at_ms: int) -> str:
    """The UTC month of a time, as `YYYY-MM`."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m")


def month_start(at_ms: int) -> int:
    """When the UTC month of a time began, epoch ms."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return int(at.replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp() * 1000)


def next_month_start(at_ms: int) -> int:
    """When the UTC month after that of a time begins, epoch ms."""
    at = datetime.fromtimestamp(month_start(at_ms) / 1000, UTC)
    following = at.replace(year=at.year + 1, month=1) if at.month == 12 else at.replace(month=at.month + 1)
    return int(following.timestamp() * 1000)


def split(span: Span, now_ms: int) -> Iterator[tuple[str, int]]:
    """The ms of a span in each UTC month that it touches; an open span ends now, a reversed one is empty."""
    at, end = span.start, span.end if span.end is not None else now_ms
    while at < end:
        until = min(end, next_month_start(at))
        yield month_of(at), until - at
        at = until


def used(spans: Iterable[Span], month: str, now_ms: int) -> int:
    """The ms of all spans that fall into `month` (`YYYY-MM`)."""
    return sum(ms for span in spans for name, ms in split(span, now_ms) if name == month)
