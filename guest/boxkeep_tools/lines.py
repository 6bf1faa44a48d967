"""Lines out of a stream of bytes, none kept in memory that is longer than is allowed; pure."""

from collections.abc import Iterator


class Lines:
    """Cuts what is fed into lines; one that is longer than `most` bytes is given as None, once, and passed over."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept = bytearray()
        self._too_long = False

    def feed(self, data: bytes) -> Iterator[bytes | None]:
        """The lines that end within `data`, without their ends."""
        *ended, rest = data.split(b"\n")
        for piece in ended:
            self._keep(piece)
            yield self._take()
        self._keep(rest)

    def _keep(self, piece: bytes) -> None:
        self._too_long = self._too_long or len(self._kept) + len(piece) > self._most
        if self._too_long:
            self._kept.clear()
        else:
            self._kept += piece

    def _take(self) -> bytes | None:
        line = None if self._too_long else bytes(self._kept)
        self._kept.clear()
        self._too_long = False
        return line
