"""Writes the records of commands, and notes of what was done, in groups: one transaction for all of the same time."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from boxkeep_server.model.commands import Command
from boxkeep_server.model.errors import Unavailable
from boxkeep_server.model.events import Note
from boxkeep_server.store.commands import Ending

LINGER_S = 0.02
RETRY_S = 0.2


Write = Callable[[Sequence[Command], Sequence[Ending], Sequence[Note]], Awaitable[Mapping[str, Command]]]
"""Writes beginnings, endings and notes in one transaction, and gives the rows of the endings as they then are."""


@dataclass(slots=True)
class _Batch:
    opened: dict[str, Command] = field(default_factory=dict)
    ended: dict[str, Ending] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    urgent: asyncio.Event = field(default_factory=asyncio.Event)
    done: "asyncio.Future[Mapping[str, Command]]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Recorder:
    """Collects what is to be written and writes it at most 20 ms later, or at once when someone waits for it."""

    def __init__(self, write: Write, linger_s: float = LINGER_S) -> None:
        self._write = write
        self._linger_s = linger_s
        self._batch: _Batch | None = None
        self._filled = asyncio.Event()
        self._writing: dict[str, _Batch] = {}

    def open(self, command: Command) -> None:
        """Have the beginning of a command written soon."""
        self._current().opened[command.id] = command

    def withdraw(self, command_id: str) -> bool:
        """Forget the beginning of a command that never began; False when it is too late for that."""
        batch = self._batch
        return batch is not None and batch.opened.pop(command_id, None) is not None

    async def written(self, command_id: str) -> None:
        """Return when the beginning of a command is durable.

        Raises:
            Unavailable: the store did not take it.
        """
        batch = self._batch
        if batch is not None and command_id in batch.opened:
            batch.urgent.set()
        else:
            batch = self._writing.get(command_id)
        if batch is not None:
            await self._settled(batch)

    async def close(self, ending: Ending) -> Command | None:
        """Write how a command ended, once its beginning is written; the row as it is then, whoever wrote its ending.

        Raises:
            Unavailable: the store did not take it.
        """
        batch = self._current()
        batch.ended.setdefault(ending.id, ending)
        batch.urgent.set()
        return (await self._settled(batch)).get(ending.id)

    async def note(self, note: Note) -> None:
        """Write down what was done; it is durable when this returns.

        Raises:
            Unavailable: the store did not take it.
        """
        batch = self._current()
        batch.notes.append(note)
        batch.urgent.set()
        await self._settled(batch)

    async def run(self) -> None:
        """Write for ever; what is pending when this is cancelled is written before it ends."""
        try:
            while True:
                await self._filled.wait()
                await self._linger()
                await self._flush()
        finally:
            await self._flush()

    async def _linger(self) -> None:
        if self._batch is None:
            return
        try:
            async with asyncio.timeout(self._linger_s):
                await self._batch.urgent.wait()
        except TimeoutError:
            return

    async def _flush(self) -> None:
        batch, self._batch = self._batch, None
        self._filled.clear()
        if batch is None or not (batch.opened or batch.ended or batch.notes):
            if batch is not None:
                batch.done.set_result({})
            return
        self._writing.update(dict.fromkeys(batch.opened, batch))
        try:
            batch.done.set_result(
                await self._write(list(batch.opened.values()), list(batch.ended.values()), batch.notes)
            )
        except Unavailable as error:
            batch.done.set_exception(error)
            batch.done.exception()  # seen by those who wait, if any do
            for command in batch.opened.values():
                self.open(command)
            await asyncio.sleep(RETRY_S)
        finally:
            for command_id in batch.opened:
                self._writing.pop(command_id, None)
            if not batch.done.done():
                batch.done.set_exception(Unavailable("The store is away"))
                batch.done.exception()

    def _current(self) -> _Batch:
        if self._batch is None:
            self._batch = _Batch()
            self._filled.set()
        return self._batch

    async def _settled(self, batch: _Batch) -> Mapping[str, Command]:
        return await asyncio.shield(batch.done)
