"""Cursors of pages that go by time, newest first: the time and id of the last thing shown, opaque to clients."""

import base64
import binascii

from boxkeep_server.model.errors import Invalid
from boxkeep_server.model.ids import is_id


def cursor_of(at: int, last_id: str) -> str:
    """The cursor that goes on behind a thing of that time, epoch ms, and id."""
    return base64.urlsafe_b64encode(f"{at}:{last_id}".encode()).decode()


def read_cursor(cursor: str) -> tuple[int, str]:
    """The time and id that a cursor was made of.

    Raises:
        Invalid: it is none of ours.
    """
    try:
        at, _, last_id = base64.urlsafe_b64decode(cursor.encode()).decode().partition(":")
    except (binascii.Error, ValueError) as error:
        raise Invalid("Invalid cursor") from error
    if not (at.isascii() and at.isdigit() and len(at) < 16 and is_id(last_id)):
        raise Invalid("Invalid cursor")
    return int(at), last_id
