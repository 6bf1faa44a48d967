"""Cursors of lists: where a page ended, as text that clients hand back unread."""

import base64
import binascii

from boxkeep_server.model.errors import Invalid
from boxkeep_server.model.ids import is_id


def write(at: int, item: str) -> str:
    """The cursor behind the item of this time and id."""
    return base64.urlsafe_b64encode(f"{at}:{item}".encode()).decode()


def read(cursor: str) -> tuple[int, str]:
    """Time and id of a cursor.

    Raises:
        Invalid: it is none of ours.
    """
    try:
        at, _, item = base64.urlsafe_b64decode(cursor.encode()).decode().partition(":")
    except (binascii.Error, ValueError) as error:
        raise Invalid("Invalid cursor") from error
    if not (at.isascii() and at.isdigit() and len(at) < 16 and is_id(item)):
        raise Invalid("Invalid cursor")
    return int(at), item
