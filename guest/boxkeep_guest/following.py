"""Reads a process's output as it grows, from memory while it keeps up and from the file when it does not."""

import asyncio
from concurrent.futures import Executor

from boxkeep_guest.calls import Call
from boxkeep_guest.frames import DATA, ERR
from boxkeep_guest.output import Output
from boxkeep_guest.process import Process
from boxkeep_guest.records import Finished

_CHUNK = 1024 * 1024


class Reader:
    """A place in one stream that moves on. `offset` is the next byte it will give."""

    def __init__(
        self, process: Process | Finished, name: str, offset: int, threads: Executor, length: int | None = None
    ) -> None:
        self.name = name
        self.offset = offset
        self._output = process.outputs[name]
        self._threads = threads
        self._stop = None if length is None else offset + length

    def stop_at_total(self) -> None:
        """Give nothing that is not there yet."""
        total = self._output.total
        self._stop = total if self._stop is None else min(self._stop, total)

    def skip_dropped(self) -> tuple[int, int] | None:
        """Move past what was dropped; the range that was, or None where nothing is missing."""
        dropped = self._output.layout.dropped
        if dropped is not None and self.offset < self._output.memory_start and dropped[0] <= self.offset < dropped[1]:
            self.offset = min(dropped[1], max(self.offset, self._output.memory_start))
        return dropped

    @property
    def stopped(self) -> bool:
        """Whether all that was wanted has been given."""
        return self._stop is not None and self.offset >= self._stop

    @property
    def lag(self) -> int:
        """How many bytes there are that it has not given."""
        return self._output.total - self.offset

    async def next(self) -> tuple[bytes, tuple[int, int] | None]:
        """The next bytes, empty when there are none now, and the range that was skipped before them."""
        end = self._output.total if self._stop is None else min(self._output.total, self._stop)
        most = min(_CHUNK, end - self.offset)
        if most <= 0:
            return b"", None
        data = self._output.from_memory(self.offset, most)
        if data is not None:
            self.offset += len(data)
            return data, None
        begin, data = await from_file(self._output, self.offset, most, self._threads)
        skipped = (self.offset, begin) if begin > self.offset else None
        self.offset = begin + len(data)
        return data, skipped


async def from_file(output: Output, offset: int, most: int, threads: Executor) -> tuple[int, bytes]:
    """The next bytes from `offset` and where they begin; where the file has none of them, memory's."""
    loop = asyncio.get_running_loop()
    try:
        begin, data = await loop.run_in_executor(threads, output.from_file, offset, most)
    except OSError:
        begin, data = offset, b""
    if not data:
        begin = max(offset, output.memory_start)
        data = output.from_memory(begin, most) or b""
    return begin, data


async def follow(call: Call, process: Process | Finished, readers: list[Reader], as_data: bool = False) -> None:
    """Send what the readers give until they have all, or the process has finished and is drained."""
    while True:
        finished = process.finished
        moved = False
        for reader in readers:
            data, skipped = await reader.next()
            if skipped is not None:
                await call.json({"dropped": skipped, "stream": reader.name})
            if data:
                await call.data(data, DATA if as_data or reader.name == "stdout" else ERR)
            moved = moved or bool(data) or skipped is not None
        if moved:
            continue
        if finished or all(reader.stopped for reader in readers) or not isinstance(process, Process):
            return
        await process.changed()


async def tail(output: Output, most: int, threads: Executor) -> bytes:
    """The last bytes of a stream that has ended, at most `most` of them."""
    offset = max(0, output.total - most)
    data = output.from_memory(offset, most)
    if data is not None:
        return data
    parts = []
    while offset < output.total:
        begin, data = await from_file(output, offset, min(_CHUNK, output.total - offset), threads)
        if not data:
            break
        parts.append(data)
        offset = begin + len(data)
    return b"".join(parts)
