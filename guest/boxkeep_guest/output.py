"""One stream of a process's output: all of it in a file within bounds, the newest bytes also in memory."""

import os
import stat

from boxkeep_guest.ring import Layout

KEPT_IN_MEMORY = 64 * 1024
SCROLLBACK = 1024 * 1024
_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Output:
    """Bytes that a process produced on one stream.

    `store` may run in a thread, one at a time; everything else belongs to the event loop. Readers see what was
    committed. The file is made with the first byte.
    """

    def __init__(self, path: str, layout: Layout, kept: int = KEPT_IN_MEMORY) -> None:
        self.path = path
        self.layout = layout
        self.total = layout.total
        self._kept = kept
        self._recent = bytearray()
        self._file: int | None = None

    def store(self, data: bytes) -> None:
        """Write `data` to the file. A full disk drops it and all that follows; the count goes on."""
        start = self.layout.total
        for position, begin, end in self.layout.place(len(data)):
            try:
                self._write(position, data[begin:end])
            except OSError:
                self.layout.full(start + begin)
                return

    def commit(self, data: bytes, length: int) -> None:
        """Show `length` bytes more to readers, the last of which are `data`."""
        self.total += length
        recent = self._recent
        if length > len(data):
            recent.clear()
        recent += data
        if len(recent) > 2 * self._kept:
            del recent[: len(recent) - self._kept]

    @property
    def memory_start(self) -> int:
        """The offset from which on memory has the bytes."""
        return self.total - len(self._recent)

    def from_memory(self, offset: int, most: int) -> bytes | None:
        """The bytes from `offset` where memory has them, else None."""
        start = self.memory_start
        if offset < start:
            return None
        return bytes(self._recent[offset - start : offset - start + most])

    def from_file(self, offset: int, most: int) -> tuple[int, bytes]:
        """The next bytes from `offset` on, and where they begin: past what was dropped. Blocks; any thread.

        Raises:
            OSError: the file was taken away or is no longer a regular file.
        """
        while True:
            begin, position, length = self.layout.find(offset, most)
            length = min(length, self.total - begin)
            if length <= 0:
                return begin, b""
            data = read_regular(self.path, position, length)
            if self.layout.find(begin, most)[0] == begin:
                return begin, data
            offset = begin

    def close(self) -> None:
        """The stream has ended: let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write(self, position: int, data: bytes) -> None:
        if self._file is None:
            self._file = self._create()
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file, view, position)
            view = view[written:]
            position += written

    def _create(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | _OPEN
        try:
            return os.open(self.path, flags, 0o600)
        except FileNotFoundError:
            os.mkdir(self.path.rpartition("/")[0], 0o700)  # noqa: PTH102 - pathlib costs start-up
            return os.open(self.path, flags, 0o600)


def read_regular(path: str, position: int, length: int) -> bytes:
    """Bytes of a regular file; the tenant may have put something else in its place, which is refused."""
    file = os.open(path, os.O_RDONLY | _OPEN)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(22, "not a regular file", path)
        return os.pread(file, length, position)
    finally:
        os.close(file)
