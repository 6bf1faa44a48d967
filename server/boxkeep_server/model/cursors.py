"""Cursors of pages: what the last thing shown is sorted by, and its id, opaque to clients."""

import base64
import binascii
from collections.abc import Sequence

from boxkeep_server.model.errors import Invalid
from boxkeep_server.model.ids import is_id

_LONGEST = 15
"""Digits of a number in a cursor: all that JSON's numbers hold."""


def cursor_of(at: int, last_id: str) -> str:
    """The cursor that goes on behind a thing of that time, epoch ms, and id."""
    return encoded([at], last_id)


def read_cursor(cursor: str) -> tuple[int, str]:
    """The time and id that a cursor was made of.

    Raises:
        Invalid: it is none of ours.
    """
    (at,), last_id = decoded(cursor, 1)
    return at, last_id


def encoded(numbers: Sequence[int], last_id: str) -> str:
    """A cursor of some numbers, none negative, and an id."""
    return base64.urlsafe_b64encode(":".join([*map(str, numbers), last_id]).encode()).decode()


def decoded(cursor: str, count: int) -> tuple[Sequence[int], str]:
    """The numbers, as many as that, and the id that a cursor was made of.

    Raises:
        Invalid: it is none of ours.
    """
    try:
        *numbers, last_id = base64.urlsafe_b64decode(cursor.encode()).decode().split(":")
    except (binascii.Error, ValueError) as error:
        raise Invalid("Invalid cursor") from error
    if len(numbers) != count or not all(map(_is_number, numbers)) or not is_id(last_id):
        raise Invalid("Invalid cursor")
    return [int(number) for number in numbers], last_id


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _LONGEST
