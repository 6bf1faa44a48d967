"""The desktop as a program: display and browser are there, are mended when they break, and do what is ordered."""

import asyncio
import sys
import time
from collections import deque
from dataclasses import replace
from typing import Any, Final

from boxkeep_desktop.chromium import BrowserFailed, Chromium, empty
from boxkeep_desktop.devtools import DevTools
from boxkeep_desktop.display import Display, DisplayFailed, free_port
from boxkeep_desktop.forwarder import Forwarder
from boxkeep_desktop.holds import MODES
from boxkeep_desktop.recorder import Recorder
from boxkeep_desktop.remote import RemoteFailed, navigate, page_size
from boxkeep_desktop.reports import listen, orders, report
from boxkeep_desktop.wish import BadWish, Wish, read_wish

_BACKOFF_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
_CRASHES_MOST: Final = 5
_CRASHES_WITHIN_S: Final = 60.0
_USUAL_FRAME: Final = (0, 88)
_FRAME_MOST: Final = 400
_FITTINGS_MOST: Final = 20
_FITTING_S: Final = 0.1


class _Broken(Exception):
    """Something of the desktop has ended by itself; the sentence says what."""


class Desktop:
    """One desktop, which hears orders from `told`. `run` returns when nobody can give any more, or it breaks time and
    again; what was recorded is whole then."""

    def __init__(self, wish: Wish, told: asyncio.StreamReader) -> None:
        self._wish = wish
        self._told = told
        self._recorder = None if wish.recordings is None else Recorder(wish.recordings, wish.recording_s)
        self._turn = asyncio.Lock()
        self._proxy = wish.proxy
        self._display: Display | None = None
        self._chromium: Chromium | None = None
        self._devtools = DevTools(lambda: self._chromium, wish.driver)
        self._frame = _USUAL_FRAME
        self._broke: deque[float] = deque(maxlen=_CRASHES_MOST)

    async def run(self) -> int:
        """Be there; the exit status."""
        report("fact", facts={"driver": self._wish.driver})
        port = free_port(self._wish.devtools_port)
        servers = [await self._devtools.serve(port)]
        if self._proxy is not None and self._proxy.user is not None:
            server, self._proxy = await Forwarder(self._proxy).serve()
            servers.append(server)
        ordered = asyncio.create_task(self._obey())
        kept = asyncio.create_task(self._keep(port))
        try:
            await asyncio.wait((ordered, kept), return_when=asyncio.FIRST_COMPLETED)
            return kept.result() if kept.done() else 0
        finally:
            for server in servers:
                server.close()
            for task in (ordered, kept):
                task.cancel()
            await asyncio.gather(ordered, kept, return_exceptions=True)
            await self._end()
            if self._recorder is not None:
                await self._recorder.close()

    async def _keep(self, port: int) -> int:
        """Have display and browser there for as long as they do not break too often."""
        if not self._wish.keep_profile:
            empty(self._wish.profile)
        while True:
            try:
                await self._begin()
                assert self._display is not None, "it has begun"
                report("ready", ports={"devtools": port, "display": self._display.port}, display=self._display.name)
                await self._until_broken()
            except (_Broken, DisplayFailed, BrowserFailed, RemoteFailed) as error:
                report("crashed", reason=str(error)[-1000:])
            await self._end()
            if not await self._may_go_on():
                report("failed", reason=f"It has broken {_CRASHES_MOST} times within {_CRASHES_WITHIN_S:.0f} s")
                return 1

    async def _begin(self) -> None:
        wish = self._wish
        self._display = await Display.start(*self._screen(), wish.display_port)
        proxy = None if self._proxy is None else self._proxy.url
        chromium = await Chromium.start(wish.profile, self._screen(), proxy, self._display.environment)
        await self._fit(chromium)
        self._chromium = chromium
        await self._record()

    async def _record(self) -> None:
        """Record the screen as it is now, but for a person who is to be watched by nobody."""
        if self._recorder is None:
            return
        async with self._turn:
            if self._display is None or self._wish.driver == "human":
                await self._recorder.hide()
            else:
                await self._recorder.show(self._display.name)

    async def _fit(self, chromium: Chromium) -> None:
        """Have the screen be of the size at which the page is as large as wished. A window takes its size when it is
        shown and made as large as the screen, which may take a moment; a page that is never so large is let be."""
        wish, display = (self._wish.width, self._wish.height), self._display
        assert display is not None, "it is on one"
        for _ in range(_FITTINGS_MOST):
            width, height = await page_size(chromium)
            if (width, height) == wish:
                return
            self._frame = (self._frame[0] + wish[0] - width, self._frame[1] + wish[1] - height)
            await display.resize(*self._screen())
            await asyncio.sleep(_FITTING_S)

    def _screen(self) -> tuple[int, int]:
        """The size of the screen on which the page is as large as wished, as far as is known."""
        frame = [max(0, min(_FRAME_MOST, extent)) for extent in self._frame]
        return self._wish.width + frame[0], self._wish.height + frame[1]

    async def _until_broken(self) -> None:
        assert self._display is not None, "it has begun"
        assert self._chromium is not None, "it has begun"
        display = asyncio.create_task(self._display.ended())
        browser = asyncio.create_task(self._chromium.ended())
        try:
            await asyncio.wait((display, browser), return_when=asyncio.FIRST_COMPLETED)
            what, status = ("browser", browser) if browser.done() else ("display", display)
            raise _Broken(f"The {what} has ended: {_told(status.result())}")
        finally:
            for task in (display, browser):
                task.cancel()
            await asyncio.gather(display, browser, return_exceptions=True)

    async def _may_go_on(self) -> bool:
        """Wait a little longer each time; False once it is no use."""
        now = time.monotonic()
        self._broke.append(now)
        if len(self._broke) == _CRASHES_MOST and now - self._broke[0] < _CRASHES_WITHIN_S:
            return False
        recent = sum(now - at < _CRASHES_WITHIN_S for at in self._broke)
        await asyncio.sleep(_BACKOFF_S[min(recent, len(_BACKOFF_S)) - 1])
        return True

    async def _end(self) -> None:
        chromium, self._chromium = self._chromium, None
        display, self._display = self._display, None
        await self._record()
        if chromium is not None:
            await chromium.end()
        if display is not None:
            await display.end()

    async def _obey(self) -> None:
        async for order in orders(self._told):
            try:
                await self._do(order)
                report("done", order=order.get("id"))
            except (RemoteFailed, DisplayFailed) as error:
                report("refused", order=order.get("id"), reason=str(error))
            except (KeyError, TypeError, ValueError) as error:
                report("refused", order=order.get("id"), reason=f"The order cannot be understood: {error!r}")

    async def _do(self, order: dict[str, Any]) -> None:
        match order["do"]:
            case "hand_over":
                mode = order["mode"]
                if mode not in MODES:
                    raise ValueError(mode)
                self._wish = replace(self._wish, driver=mode)
                await self._devtools.hand_over(mode)
                await self._record()
                report("fact", facts={"driver": mode})
            case "navigate":
                await navigate(self._there(), str(order["url"]))
            case "resize":
                self._wish = replace(self._wish, width=int(order["width"]), height=int(order["height"]))
                await self._fit(self._there())
                await self._record()
            case unknown:
                raise ValueError(unknown)

    def _there(self) -> Chromium:
        if self._chromium is None:
            raise RemoteFailed("The browser is starting")
        return self._chromium


def _told(status: int) -> str:
    """An exit status in words."""
    return f"signal {-status}" if status < 0 else f"status {status}"


async def _run() -> int:
    told = await listen()
    try:
        wish = read_wish(await told.readline())
    except BadWish as error:
        sys.stderr.write(f"boxkeep-desktop: {error}\n")
        return 2
    return await Desktop(wish, told).run()


def main() -> int:
    """Run the desktop that the first line of standard input wishes, where no list of processes shows it; its exit
    status."""
    return asyncio.run(_run())
