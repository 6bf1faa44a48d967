"""Operations on processes: start, list, wait, output, input, signals, terminals."""

import asyncio
import signal
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any

from boxkeep_guest.calls import Call, Op
from boxkeep_guest.errors import Refused
from boxkeep_guest.fields import Fields
from boxkeep_guest.following import Reader, follow, tail
from boxkeep_guest.process import Process
from boxkeep_guest.processes import Processes
from boxkeep_guest.records import Finished, Spec, Terminal

YEAR_MS = 366 * 24 * 3600 * 1000
TAIL_MOST = 16 * 1024 * 1024
LIST_MOST = 1000
LIST_BYTES_MOST = 700 * 1024
_LARGEST_SIGNAL = 64


def spec_of(fields: Fields, workspace: str) -> Spec:
    """What a `process.start` asks for; Refused `bad_request` where it is not allowed."""
    command = fields.text("command")
    if not command and fields.has("args"):
        raise Refused("bad_request", "command must not be empty")
    return Spec(
        id=fields.process_id(),
        command=command,
        args=fields.texts("args"),
        cwd=fields.text("cwd", workspace),
        env=fields.environment("env"),
        user=fields.optional_text("user"),
        stdin=fields.octets("stdin"),
        keep_stdin=fields.flag("keepStdin"),
        timeout_ms=fields.optional_integer("timeoutMs", 1, YEAR_MS),
        background=fields.flag("background"),
        pty=size_of(fields.part("pty")),
        companion=fields.flag("companion"),
    )


def size_of(fields: Fields | None) -> Terminal | None:
    """A terminal's size; None where none is asked for."""
    if fields is None:
        return None
    return Terminal(fields.integer("rows", least=1, most=10_000), fields.integer("cols", least=1, most=10_000))


class ProcessCalls:
    """The handlers."""

    def __init__(self, processes: Processes, threads: Executor, workspace: str) -> None:
        self._processes = processes
        self.threads = threads
        self._workspace = workspace

    def ops(self) -> dict[str, Op]:
        """The operations by name."""
        return {
            "process.start": Op(self._start),
            "process.list": Op(self._list),
            "process.get": Op(self._get),
            "process.wait": Op(self._wait),
            "process.output": Op(self._output),
            "process.follow": Op(self._follow),
            "process.stdin": Op(self._stdin),
            "process.signal": Op(self._signal),
        }

    async def _start(self, call: Call) -> None:
        wanted = call.fields.choice("answer", ("started", "exit", "stream"), "started")
        most = call.fields.integer("tail", 0, 0, TAIL_MOST)
        process = await self._processes.start(spec_of(call.fields, self._workspace))
        if wanted == "started":
            await call.answer(process=process.record())
        elif wanted == "stream":
            await self._stream(call, process, {"stdout": 0, "stderr": 0})
        else:
            await self._exit(call, process, most)

    async def _exit(self, call: Call, process: Process | Finished, most: int) -> None:
        if isinstance(process, Process):
            await process.done.wait()
        outputs = process.outputs
        stdout = await tail(outputs["stdout"], most, self.threads)
        stderr = await tail(outputs["stderr"], most, self.threads)
        fields = {"process": process.record(), "stdoutTail": len(stdout), "stderrTail": len(stderr)}
        await call.answer_whole(fields, stdout, stderr)

    async def _stream(self, call: Call, process: Process | Finished, offsets: dict[str, int]) -> None:
        await call.answer(process=process.record())
        readers = [Reader(process, name, offset, self.threads) for name, offset in offsets.items()]
        await follow(call, process, readers)
        await call.json({"process": process.record()})
        await call.end()

    async def _list(self, call: Call) -> None:
        fields = call.fields
        state = fields.choice("state", ("running", "finished"), "") if fields.has("state") else None
        limit = fields.integer("limit", 100, 1, LIST_MOST)
        ids = self._processes.ids_after(fields.optional_text("after"))
        shown: list[dict[str, Any]] = []
        room = LIST_BYTES_MOST
        for record in self._records(ids, state):
            room -= _length(record)
            if len(shown) == limit or (room < 0 and shown):
                await call.answer(processes=shown, more=True)
                return
            shown.append(record)
            if not len(shown) % 50:
                await asyncio.sleep(0)
        await call.answer(processes=shown, more=False)

    def _records(self, ids: list[str], state: str | None) -> Iterator[dict[str, Any]]:
        for one in ids:
            found = self._processes.find(one)
            if found is not None and state in (None, "finished" if found.finished else "running"):
                yield found.record()

    async def _get(self, call: Call) -> None:
        await call.answer(process=self._processes.get(call.fields.process_id()).record())

    async def _wait(self, call: Call) -> None:
        within = call.fields.integer("timeoutMs", most=YEAR_MS) / 1000
        process = self._processes.get(call.fields.process_id())
        if isinstance(process, Process):
            try:
                async with asyncio.timeout(within):
                    await process.done.wait()
            except TimeoutError:
                pass
        await call.answer(process=process.record())

    async def _output(self, call: Call) -> None:
        fields = call.fields
        process = self._processes.get(fields.process_id())
        name = fields.choice("stream", ("stdout", "stderr"), "stdout")
        length = fields.optional_integer("length")
        reader = Reader(process, name, fields.integer("offset", 0), self.threads, length)
        following = fields.flag("follow")
        dropped = reader.skip_dropped()
        await call.answer(offset=reader.offset, dropped=dropped, process=process.record())
        if not following:
            reader.stop_at_total()
        await follow(call, process, [reader], as_data=True)
        await call.end()

    async def _follow(self, call: Call) -> None:
        offsets = {name: call.fields.integer(f"{name}Offset", 0) for name in ("stdout", "stderr")}
        await self._stream(call, self._processes.get(call.fields.process_id()), offsets)

    async def _stdin(self, call: Call) -> None:
        process = self._processes.running_one(call.fields.process_id())
        close = call.fields.flag("close")
        intake = process.intake
        if intake is None or not intake.open:
            raise Refused("not_running", "The process takes no input")
        await call.answer()
        written = 0
        while parts := await call.uploaded():
            for data in parts:
                await intake.write(data)
                written += len(data)
        if close and process.terminal is None:
            intake.close()
        await call.answer(written=written)

    async def _signal(self, call: Call) -> None:
        fields = call.fields
        number = fields.integer("signal", least=1, most=_LARGEST_SIGNAL)
        process = self._processes.running_one(fields.process_id())
        assert process.tree is not None
        if number == signal.SIGKILL and fields.flag("cancel"):
            process.cancelled()
        if fields.flag("tree"):
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self.threads, process.tree.signal, number)
        else:
            process.signal_group(number)
        await call.answer()


def _length(record: dict[str, Any]) -> int:
    """An upper bound of the record's length in JSON, cheaply."""
    return 1024 + 12 * (len(record["command"]) + sum(map(len, record["args"] or ())) + len(record["cwd"]))
