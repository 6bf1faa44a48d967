"""Operations on terminals: their size, and attaching to them with scrollback."""

import asyncio

from boxkeep_guest import frames
from boxkeep_guest.calls import Call, Op
from boxkeep_guest.errors import BadFrame, PeerGone, Refused
from boxkeep_guest.fields import Fields
from boxkeep_guest.following import Reader
from boxkeep_guest.output import SCROLLBACK
from boxkeep_guest.process import Process
from boxkeep_guest.process_calls import ProcessCalls, size_of
from boxkeep_guest.processes import Processes
from boxkeep_guest.records import Finished

ATTACHED_MOST = 32
LAG_MOST = 256 * 1024 * 1024
SLOW_SECONDS = 10.0


class TerminalCalls:
    """The handlers."""

    def __init__(self, processes: Processes, calls: ProcessCalls, announce: bool) -> None:
        self._processes = processes
        self._threads = calls.threads
        self._announce = announce
        self._attached: dict[str, int] = {}

    def ops(self) -> dict[str, Op]:
        """The operations by name."""
        return {
            "process.resize": Op(self._resize),
            "process.attach": Op(self._attach, duplex=True),
        }

    def _resized(self, process: Process | Finished, fields: Fields) -> None:
        size = size_of(fields)
        if isinstance(process, Process) and size is not None:
            process.resize(size, self._announce)

    async def _resize(self, call: Call) -> None:
        process = self._processes.running_one(call.fields.process_id())
        if process.terminal is None:
            raise Refused("bad_request", "The process has no terminal")
        self._resized(process, call.fields)
        await call.answer()

    async def _attach(self, call: Call) -> None:
        process = self._processes.get(call.fields.process_id())
        if not process.record()["pty"]:
            raise Refused("bad_request", "The process has no terminal")
        key = call.fields.process_id()
        if self._attached.get(key, 0) >= ATTACHED_MOST:
            raise Refused("limit", f"{ATTACHED_MOST} clients are attached already")
        self._attached[key] = self._attached.get(key, 0) + 1
        try:
            await self._join(call, process)
        finally:
            self._attached[key] -= 1
            if not self._attached[key]:
                del self._attached[key]

    async def _join(self, call: Call, process: Process | Finished) -> None:
        if call.fields.has("rows") or call.fields.has("cols"):
            self._resized(process, call.fields)
        total = process.outputs["stdout"].total
        reader = Reader(process, "stdout", max(0, total - SCROLLBACK), self._threads)
        await call.answer(process=process.record(), scrollback=total - reader.offset)
        taking = asyncio.create_task(self._take(call, process))
        giving = asyncio.create_task(self._give(call, process, reader))
        try:
            await asyncio.wait((taking, giving), return_when=asyncio.FIRST_COMPLETED)
            ended = taking if taking.done() else giving
            ended.result()
        finally:
            for task in (taking, giving):
                task.cancel()
            await asyncio.gather(taking, giving, return_exceptions=True)

    @staticmethod
    async def _give(call: Call, process: Process | Finished, reader: Reader) -> None:
        """The terminal's bytes to one client; one that is too slow is cut off."""
        while True:
            finished = process.finished
            data, _ = await reader.next()
            for at in range(0, len(data), frames.DATA_MOST):
                await call.connection.send(frames.DATA, data[at : at + frames.DATA_MOST], SLOW_SECONDS)
            if reader.lag > LAG_MOST:
                raise PeerGone
            if data:
                continue
            if finished or not isinstance(process, Process):
                await call.json({"process": process.record()})
                await call.end()
                return
            await process.changed()

    async def _take(self, call: Call, process: Process | Finished) -> None:
        """One client's keys and sizes to the terminal."""
        while True:
            kind, payload = await call.connection.receive()
            if kind == frames.DATA:
                await self._type(process, payload)
            elif kind == frames.JSON:
                size = Fields(frames.decode_json(payload)).part("resize")
                if size is not None:
                    self._resized(process, size)
            elif kind != frames.END:
                raise BadFrame(f"a terminal takes no frames of type {kind}")

    @staticmethod
    async def _type(process: Process | Finished, data: bytes) -> None:
        if isinstance(process, Process) and process.intake is not None and process.intake.open:
            try:
                await process.intake.write(data)
            except Refused:  # it ended meanwhile; the other direction says so
                return
