"""A viewer's client: what a sandbox's display shows, by VNC (RFC 6143) over the viewer's WebSocket."""

import struct
from types import TracebackType
from typing import Final

from websockets.sync.client import connect

RAW: Final = 0
ZRLE: Final = 16
_ANSWER_S: Final = 30.0
_TRUE_COLOUR: Final = struct.pack(">BBBBHHHBBBxxx", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)


class Screen:
    """One viewer, which takes the screen in an encoding; only of `RAW` it knows the pixels."""

    def __init__(self, url: str, encoding: int) -> None:
        self._socket = connect(url, open_timeout=30, close_timeout=2, max_size=None)
        self._encoding = encoding
        self._unread = bytearray()
        self.width, self.height = self._begun()

    def __enter__(self) -> "Screen":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def ask(self, x: int, y: int, width: int, height: int, *, whole: bool = False) -> None:
        """Ask for the next change within a part of the screen, or for all of it as it is."""
        self._socket.send(struct.pack(">BBHHHH", 3, 0 if whole else 1, x, y, width, height))

    def frame(self) -> tuple[int, int, int] | None:
        """Wait for the answer to what was asked; of a raw one the colour of its last pixel."""
        while (kind := self._read(1)[0]) != 0:
            if kind == 3:  # the clipboard
                self._read(struct.unpack(">3xI", self._read(7))[0])
            elif kind != 2:  # the bell
                raise AssertionError(f"a display says {kind}")
        colour = None
        for _ in range(struct.unpack(">xH", self._read(3))[0]):
            _, _, width, height, encoding = struct.unpack(">HHHHi", self._read(12))
            assert encoding == self._encoding, encoding
            size = width * height * 4 if encoding == RAW else struct.unpack(">I", self._read(4))[0]
            data = self._read(size)
            if encoding == RAW and data:
                blue, green, red = data[-4:-1]
                colour = (red, green, blue)
        return colour

    def _begun(self) -> tuple[int, int]:
        assert self._read(12) == b"RFB 003.008\n"
        self._socket.send(b"RFB 003.008\n")
        assert 1 in self._read(self._read(1)[0])
        self._socket.send(b"\x01")  # no authentication: the WebSocket's address was one
        assert self._read(4) == bytes(4)
        self._socket.send(b"\x01")
        width, height, name = struct.unpack(">HH16xI", self._read(24))
        self._read(name)
        self._socket.send(b"\x00\x00\x00\x00" + _TRUE_COLOUR)
        self._socket.send(struct.pack(">BBHi", 2, 0, 1, self._encoding))
        return width, height

    def _read(self, size: int) -> bytes:
        while len(self._unread) < size:
            said = self._socket.recv(timeout=_ANSWER_S)
            if isinstance(said, bytes):  # the rest is between the viewer's page and us
                self._unread += said
        taken = bytes(self._unread[:size])
        del self._unread[:size]
        return taken
