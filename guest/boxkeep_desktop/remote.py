"""A few things that the desktop itself asks of Chromium, by its protocol."""

import asyncio
import json
from typing import Any, Final

from boxkeep_desktop.chromium import Chromium
from boxkeep_desktop.sockets import Socket, SocketClosed

_CALL_S: Final = 30.0
_SIZE: Final = "JSON.stringify([innerWidth, innerHeight])"


class RemoteFailed(Exception):
    """Chromium did not do what it was asked; the sentence says why."""


async def navigate(chromium: Chromium, url: str) -> None:
    """Have the page that is in front go to a URL; returns when it has begun to.

    Raises:
        RemoteFailed
    """
    async with _Page(chromium) as page:
        answer = await page.call("Page.navigate", url=url)
        if answer.get("errorText"):
            raise RemoteFailed(f"The page cannot be opened: {answer['errorText']}")


async def page_size(chromium: Chromium) -> tuple[int, int]:
    """How large the page in front is, in pixels.

    Raises:
        RemoteFailed
    """
    async with _Page(chromium) as page:
        answer = await page.call("Runtime.evaluate", expression=_SIZE)
    try:
        width, height = json.loads(answer["result"]["value"])
        return int(width), int(height)
    except (KeyError, ValueError, TypeError) as error:
        raise RemoteFailed("Chromium does not say how large its page is") from error


class _Page:
    """The page that is in front, for a few calls."""

    def __init__(self, chromium: Chromium) -> None:
        self._chromium = chromium
        self._number = 0

    async def __aenter__(self) -> "_Page":
        try:
            self._socket = await Socket.connect(self._chromium.port, self._chromium.path)
        except SocketClosed as error:
            raise RemoteFailed("Chromium does not answer") from error
        self._session: str | None = None
        try:
            found = await self.call("Target.getTargets")
            pages = [one["targetId"] for one in found["targetInfos"] if one["type"] == "page"]
            if not pages:
                made = await self.call("Target.createTarget", url="about:blank")
                pages = [made["targetId"]]
            attached = await self.call("Target.attachToTarget", targetId=pages[0], flatten=True)
            self._session = attached["sessionId"]
        except BaseException:
            await self._socket.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._socket.close()

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What a method answers.

        Raises:
            RemoteFailed
        """
        self._number += 1
        request = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            request["sessionId"] = self._session
        try:
            async with asyncio.timeout(_CALL_S):
                await self._socket.send(json.dumps(request))
                return await self._answer()
        except (SocketClosed, TimeoutError) as error:
            raise RemoteFailed("Chromium does not answer") from error

    async def _answer(self) -> dict[str, Any]:
        while True:
            message = json.loads(await self._socket.receive())
            if message.get("id") == self._number:
                if "error" in message:
                    raise RemoteFailed(str(message["error"].get("message", "Chromium refuses")))
                result: dict[str, Any] = message.get("result", {})
                return result
