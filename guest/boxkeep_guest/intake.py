"""Writes into a process's standard input or terminal, waiting while it is full."""

import asyncio
import os

from boxkeep_guest.errors import Refused


class Intake:
    """The writing end of a process's input. Writers take turns."""

    def __init__(self, file: int, owned: bool = True) -> None:
        self._file = file
        self._owned = owned
        self._turn = asyncio.Lock()
        self._room: asyncio.Future[None] | None = None
        self.open = True
        os.set_blocking(file, False)

    async def write(self, data: bytes) -> None:
        """Write all of `data`.

        Raises:
            Refused: `not_running`, the process no longer reads.
        """
        async with self._turn:
            left = memoryview(data)
            while left:
                left = left[self.write_now(left) :]
                if left:
                    await self._wait_for_room()

    def write_now(self, data: bytes | memoryview) -> int:
        """Write what there is room for; how many bytes that was. Raises as `write` does."""
        if not self.open:
            raise Refused("not_running", "The process takes no more input")
        try:
            return os.write(self._file, data)
        except BlockingIOError:
            return 0
        except OSError:
            self.close()
            raise Refused("not_running", "The process has closed its input") from None

    async def _wait_for_room(self) -> None:
        loop = asyncio.get_running_loop()
        self._room = room = loop.create_future()
        loop.add_writer(self._file, _settle, room)
        try:
            await room
        finally:
            self._room = None
            if self.open:
                loop.remove_writer(self._file)

    def close(self) -> None:
        """No more input; whoever waits for room is told so."""
        if not self.open:
            return
        self.open = False
        asyncio.get_running_loop().remove_writer(self._file)
        if self._room is not None:
            _settle(self._room)
        if self._owned:
            os.close(self._file)


def _settle(room: "asyncio.Future[None]") -> None:
    if not room.done():
        room.set_result(None)
