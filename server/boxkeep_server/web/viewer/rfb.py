"""What a viewer says to a display by VNC, message by message (RFC 6143): input passes only from who drives."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

_VERSION: Final = b"RFB 003.008\n"
_OPENING: Final = ((_VERSION,), (b"\x01",), (b"\x00", b"\x01"))
"""What is said before all messages, each after an answer: the version, no authentication, and whether to share."""
_MESSAGE_MOST: Final = 1 << 20
_SET_ENCODINGS: Final = 2
_EXTENDED_BUTTONS: Final = (-316).to_bytes(4, "big", signed=True)
"""An encoding that makes messages of a mouse longer: not asked for, so that their length is always known."""

# The length of each message that has always the same.
_FIXED: Final = {0: 20, 3: 10, 4: 8, 5: 6, 150: 10, 250: 4}
_CUT_TEXT: Final = 6
_DESKTOP_SIZE: Final = 251
_QEMU: Final = 255
_QEMU_KEY_BYTES: Final = 12
_INPUT: Final = frozenset({4, 5, _CUT_TEXT, _QEMU})
_NEVER: Final = frozenset({250, _DESKTOP_SIZE})
"""Turning the machine off, and giving the screen another size: not a viewer's to decide."""


class NoViewer(Exception):
    """What came is not said by a viewer that we know."""


class Words:
    """The words of one viewer, from their beginning. `drives` says at each whether it may touch anything."""

    def __init__(self, drives: Callable[[], bool]) -> None:
        self._drives = drives
        self._buffer = bytearray()
        self._opening = deque(_OPENING)

    def passed(self, data: bytes) -> bytes:
        """What of them the display may hear, now that `data` has come too.

        Raises:
            NoViewer
        """
        self._buffer += data
        return b"".join(self._whole())

    def _whole(self) -> Iterator[bytes]:
        while self._opening and len(self._buffer) >= len(self._opening[0][0]):
            yield self._opened()
        while not self._opening and (length := self._length()) is not None and len(self._buffer) >= length:
            message = bytes(self._buffer[:length])
            del self._buffer[:length]
            kind = message[0]
            if kind in _NEVER or (kind in _INPUT and not self._drives()):
                continue
            yield _without_extended_buttons(message) if kind == _SET_ENCODINGS else message

    def _opened(self) -> bytes:
        allowed = self._opening.popleft()
        said = bytes(self._buffer[: len(allowed[0])])
        if said not in allowed:
            raise NoViewer
        del self._buffer[: len(said)]
        return said

    def _length(self) -> int | None:
        """The length of the message that comes next; None while that is not known."""
        if not self._buffer:
            return None
        kind = self._buffer[0]
        if kind in _FIXED:
            return _FIXED[kind]
        length = self._told_length(kind)
        if length is not None and length > _MESSAGE_MOST:
            raise NoViewer
        return length

    def _told_length(self, kind: int) -> int | None:
        match kind:
            case 2:  # encodings
                return self._told(2, 2, lambda number: 4 + 4 * number)
            case 6:  # a negative length is that of a clipboard with several forms
                return self._told(4, 4, lambda number: 8 + abs(number), signed=True)
            case 248:  # a fence
                return self._told(8, 1, lambda number: 9 + number)
            case 251:  # a size
                return self._told(6, 1, lambda number: 8 + 16 * number)
            case 255:  # a key, as QEMU has it
                if len(self._buffer) > 1 and self._buffer[1] != 0:
                    raise NoViewer
                return _QEMU_KEY_BYTES
        raise NoViewer

    def _told(self, at: int, size: int, length: Callable[[int], int], *, signed: bool = False) -> int | None:
        if len(self._buffer) < at + size:
            return None
        return length(int.from_bytes(self._buffer[at : at + size], "big", signed=signed))


def _without_extended_buttons(message: bytes) -> bytes:
    encodings = [message[at : at + 4] for at in range(4, len(message), 4)]
    left = [one for one in encodings if one != _EXTENDED_BUTTONS]
    return message[:2] + len(left).to_bytes(2, "big") + b"".join(left)
