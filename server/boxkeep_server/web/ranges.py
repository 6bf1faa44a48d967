"""Byte ranges of HTTP: which part of a file a request wants, and whether it has it already."""

import re
from dataclasses import dataclass

from boxkeep_server.control.inside import Entry
from boxkeep_server.web.errors import RangeNotSatisfiable

_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{1,18})?|-(\d{1,18}))")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a file: where it begins and how long it is."""

    offset: int
    length: int


def etag_of(entry: Entry) -> str:
    """A tag that changes when size or modification time do. It is weak in nothing but the clock's grain."""
    return f'"{entry.modified_at:x}-{entry.size:x}"'


def part_of(header: str | None, size: int) -> Part | None:
    """The one part that a Range header asks for; None for the whole, and for forms that we may ignore.

    Raises:
        RangeNotSatisfiable: it lies behind the end.
    """
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        length = min(int(suffix), size)
        if length == 0:
            raise RangeNotSatisfiable(size)
        return Part(size - length, length)
    if last is not None and int(last) < int(first):
        return None
    if int(first) >= size:
        raise RangeNotSatisfiable(size)
    end = size - 1 if last is None else min(int(last), size - 1)
    return Part(int(first), end - int(first) + 1)
