"""Moves what a process writes from its pipe or terminal into its output, at constant memory."""

import asyncio
import errno
import fcntl
import os
from collections.abc import Callable
from concurrent.futures import Executor

from boxkeep_guest.output import Output

_CHUNK = 64 * 1024
_BULK = 8 * 1024 * 1024
_PIPE = 1024 * 1024
_FULL_READS_FOR_BULK = 8


class Pump:
    """Reads one descriptor until its end. Small output is stored on the loop, a flood of it in a thread."""

    def __init__(self, file: int, output: Output, threads: Executor, changed: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._file = file
        self._output = output
        self._threads = threads
        self._changed = changed
        self._full_reads = 0
        self._discard = False
        self._closing = False
        self.busy = False
        self.ended = False
        os.set_blocking(file, False)
        self._loop.add_reader(file, self._ready)

    def drain(self) -> None:
        """Take what is there now, so that the end is seen at once."""
        for _ in range(4 * _FULL_READS_FOR_BULK):
            if self.busy or self.ended or not self._take():
                return

    def discard(self) -> None:
        """From now on throw away what comes, so that whoever still writes is not held up."""
        self._discard = True

    def close(self) -> None:
        """Read no more; writers get a broken pipe or a hangup."""
        self._closing = True
        if not self.busy:
            self._end()

    def _ready(self) -> None:
        self._take()

    def _take(self) -> bool:
        data = self._read()
        if data is None:
            return False
        if not data:
            self._end()
            return False
        if not self._discard:
            self._output.store(data)
            self._output.commit(data, len(data))
            self._changed()
        self._full_reads = self._full_reads + 1 if len(data) == _CHUNK else 0
        if self._full_reads >= _FULL_READS_FOR_BULK:
            self._start_bulk()
        return True

    def _read(self) -> bytes | None:
        try:
            return os.read(self._file, _CHUNK)
        except BlockingIOError:
            return None
        except OSError:  # a terminal whose last user is gone gives EIO
            return b""

    def _start_bulk(self) -> None:
        self.busy = True
        self._full_reads = 0
        self._loop.remove_reader(self._file)
        _widen(self._file)
        job = self._loop.run_in_executor(self._threads, self._bulk)
        job.add_done_callback(self._bulk_done)

    def _bulk(self) -> tuple[int, bytes, bool]:
        moved, last = 0, b""
        while moved < _BULK:
            data = self._read()
            if not data:
                return moved, last, data is not None
            if not self._discard:
                self._output.store(data)
            moved += len(data)
            last = (last + data)[-_CHUNK:] if len(data) < _CHUNK else data
        return moved, last, False

    def _bulk_done(self, job: "asyncio.Future[tuple[int, bytes, bool]]") -> None:
        self.busy = False
        if job.cancelled() or self._loop.is_closed():
            return
        moved, last, ended = job.result()
        if moved and not self._discard:
            self._output.commit(last, moved)
        if ended or self._closing:
            self._end()
        else:
            self._loop.add_reader(self._file, self._ready)
            if moved == _BULK:
                self._full_reads = _FULL_READS_FOR_BULK - 1
        self._changed()

    def _end(self) -> None:
        if self.ended:
            return
        self.ended = True
        self._loop.remove_reader(self._file)
        os.close(self._file)
        if not self._closing:
            self._changed()


def _widen(file: int) -> None:
    try:
        fcntl.fcntl(file, fcntl.F_SETPIPE_SZ, _PIPE)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EINVAL, errno.EBADF, errno.EBUSY, errno.ENOTTY, errno.ENOSYS):
            raise
