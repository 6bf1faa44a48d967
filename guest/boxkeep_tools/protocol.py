"""Chromium's protocol, as its client: calls and events of one connection, by the door of the sandbox's browser."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any, Final

from boxkeep_desktop.holds import BUSY
from boxkeep_desktop.sockets import Socket, SocketClosed
from boxkeep_tools.faults import Away, Gone, Held, ToolFailed

Answer = asyncio.Future[dict[str, Any]]
Heard = Callable[[str | None, str, dict[str, Any]], None]

_WHOLE: Final = "/devtools/browser"
_WORDS_MOST: Final = 300
_GONE: Final = ("context", "Session with given id", "detached", "Inspected target", "No frame", "Not attached")


class Refused(ToolFailed):
    """Chromium does not do what a call asks."""


class Protocol:
    """One connection. `heard` is told of every event: its session, its name and what it says.

    Whoever is refused because a person drives lets go of the browser: a connection takes its dialogs from a person.
    """

    def __init__(self, socket: Socket, heard: Heard) -> None:
        self.over: ToolFailed | None = None
        self._socket = socket
        self._heard = heard
        self._number = 0
        self._answers: dict[int, Answer] = {}
        self._unsent: asyncio.Queue[str] = asyncio.Queue()
        self._news = asyncio.Event()
        self._running = asyncio.create_task(self._run())

    @classmethod
    async def connect(cls, port: int, heard: Heard) -> "Protocol":
        """Connect to the door on a port of loopback.

        Raises:
            Away: nobody is there.
        """
        try:
            return cls(await Socket.connect(port, _WHOLE), heard)
        except SocketClosed as error:
            raise Away from error

    def post(self, method: str, session: str | None = None, **params: Any) -> Answer:
        """Ask for something, and go on; what it answers comes later, and need not be waited for."""
        answer: Answer = asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self.over is not None:
            answer.set_exception(self.over)
            return answer
        self._number += 1
        call = {"id": self._number, "method": method, "params": params}
        self._answers[self._number] = answer
        self._unsent.put_nowait(json.dumps(call if session is None else {**call, "sessionId": session}))
        return answer

    async def until(self, true: Callable[[], object], within_s: float) -> bool:
        """Wait for something that the browser's words bring about; False if it is not so in time.

        Raises:
            Away, Held: the connection is over before.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not true():
                    if self.over is not None:
                        raise self.over
                    await self._news.wait()
        return bool(true())

    async def close(self) -> None:
        """Let go of the browser. May be repeated."""
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)

    async def _run(self) -> None:
        """Say and hear until the connection is over, for whatever reason."""
        both = [asyncio.create_task(self._say()), asyncio.create_task(self._hear())]
        why: ToolFailed = Away()
        try:
            done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_EXCEPTION)
            errors = [error for one in done if (error := one.exception())]
            why = next((error for error in errors if isinstance(error, ToolFailed)), why)
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            await self._socket.close()
            self._end(why)

    def _end(self, why: ToolFailed) -> None:
        self.over = why
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(why)
        self._answers.clear()
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _say(self) -> None:
        with contextlib.suppress(SocketClosed):  # who hears learns the reason
            while True:
                await self._socket.send(await self._unsent.get())

    async def _hear(self) -> None:
        try:
            while True:
                said = json.loads(await self._socket.receive())
                if "id" in said:
                    self._answered(said)
                else:
                    self._heard(said.get("sessionId"), said["method"], said.get("params", {}))
                self._tell()
        except SocketClosed as error:
            raise Held if str(error) == BUSY else Away from error
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise Away("The browser says what cannot be understood.") from error

    def _answered(self, said: dict[str, Any]) -> None:
        answer = self._answers.pop(said["id"], None)
        refusal = said["error"].get("message", "") if "error" in said else None
        if refusal == BUSY:
            raise Held
        if answer is None or answer.done():
            return
        if refusal is None:
            answer.set_result(said.get("result", {}))
        elif _is_gone(refusal):
            answer.set_exception(Gone())
        else:
            answer.set_exception(Refused(f"The browser refuses it: {str(refusal)[:_WORDS_MOST]}"))


def _is_gone(refusal: str) -> bool:
    """Whether a refusal is one of who asks for what has been left meanwhile."""
    return any(words in refusal for words in _GONE)
