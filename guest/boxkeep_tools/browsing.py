"""The browser in an agent's use: connected when a tool is called, one call after the other, each told of what came."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from boxkeep_tools.acts import Act, Told
from boxkeep_tools.browser import Browser
from boxkeep_tools.companion import Companion
from boxkeep_tools.faults import Away, Interrupted, Silent, ToolFailed
from boxkeep_tools.reading import here, where
from boxkeep_tools.tools import Arguments, Content, image, text
from boxkeep_tools.words import marked, quoted

_ASK_S: Final = 15.0
_CALL_S: Final = 120.0


class Browsing:
    """Runs acts on the sandbox's browser. `mark` gives a word that no page can know, a new one each time."""

    def __init__(self, companion: Companion, mark: Callable[[], str]) -> None:
        self.companion = companion
        self._mark = mark
        self._browser: Browser | None = None
        self._turn = asyncio.Lock()

    async def run(self, act: Act, given: Arguments) -> Sequence[Content]:
        """Do one act, after those that were asked for before.

        Raises:
            ToolFailed
        """
        try:
            async with self._turn, asyncio.timeout(_CALL_S):
                return await self._ran(await self._connected(), act, given)
        except TimeoutError as error:
            raise ToolFailed("It has taken too long and was given up: the page may be busy. Try again.") from error

    async def _ran(self, browser: Browser, act: Act, given: Arguments) -> Sequence[Content]:
        try:
            told = await act(browser, given)
        except Interrupted as fault:
            told = Told(str(fault))
        except ToolFailed as fault:
            if browser.protocol.over is not None:
                raise
            at = _last_seen(browser) if isinstance(fault, Silent) else None
            raise ToolFailed(await self._words(browser, Told(str(fault), at=at))) from fault
        words = text(await self._words(browser, told))
        return [words] if told.jpeg is None else [words, image(told.jpeg, "image/jpeg")]

    async def let_go(self) -> None:
        """Have no hand on the browser until the next act."""
        async with self._turn:
            await self._close()

    async def _close(self) -> None:
        browser, self._browser = self._browser, None
        if browser is not None:
            await browser.close()

    async def _connected(self) -> Browser:
        if self._browser is not None and self._browser.protocol.over is None:
            return self._browser
        await self._close()
        port = (await self.companion.ask(_ASK_S, ask="browser")).get("port")
        if not isinstance(port, int):
            raise Away("There is no browser: it is starting, or this sandbox has none.")
        self._browser = await Browser.connect(port)
        return self._browser

    async def _words(self, browser: Browser, told: Told) -> str:
        """What came of an act, then what has happened meanwhile and which page it is now, marked as the page's."""
        page = await _page(browser, told)
        lines = [*browser.take_notes(), *page, *told.lines]
        return "\n".join([told.sentence, marked(lines, self._mark())])


def _last_seen(browser: Browser) -> tuple[str, str] | None:
    return (browser.front.title, browser.front.url) if browser.tabs else None


async def _page(browser: Browser, told: Told) -> list[str]:
    """The page in front, and the dialog that it has open."""
    if not browser.tabs:
        return ["No page is open."]
    tab = browser.front
    lines = [f"Page: {where(*(told.at or await here(tab)))}"]
    if tab.dialog is not None:
        lines.append(f"It asks, by a dialog of the kind {tab.dialog.kind}: {quoted(tab.dialog.message, 1000)}")
    return lines
