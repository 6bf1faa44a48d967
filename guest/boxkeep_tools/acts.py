"""What an agent can do with the browser, act by act: each takes the browser and its arguments, and says what it did."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from boxkeep_tools import hands, reading
from boxkeep_tools.browser import Browser
from boxkeep_tools.faults import Gone, Interrupted, Silent, ToolFailed
from boxkeep_tools.tab import Tab
from boxkeep_tools.tools import Arguments
from boxkeep_tools.words import quoted

_OPEN_S: Final = 30.0
_COMES_S: Final = 5.0
_CLOSE_S: Final = 5.0
_ANSWERS_S: Final = 5.0
_POLL_S: Final = 0.3
_WAIT_S: Final = 10
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?!\d)")
_HERE: Final = re.compile(r"(localhost|127\.|\[::1\]|0\.0\.0\.0)", re.IGNORECASE)


@dataclass(frozen=True)
class Told:
    """What came of an act: a sentence of ours, lines of the page, and perhaps a picture as a JPEG in base64; and title
    and URL of the page that the lines are of, where it matters that they are of no other."""

    sentence: str
    lines: list[str] = field(default_factory=list)
    jpeg: str | None = None
    at: tuple[str, str] | None = None


Act = Callable[[Browser, Arguments], Awaitable[Told]]


async def open_url(browser: Browser, given: Arguments) -> Told:
    """Go to an address, whatever the page in front is doing, and read what is there."""
    url = address(given["url"])
    tab = await _leavable(browser)
    if not await _came(tab, url):
        tab = await _instead(browser, tab)
        await _came(tab, url)
    await tab.rest()
    return await _read(browser, 1, "Opened.")


async def read(browser: Browser, given: Arguments) -> Told:
    """Read the page in front, or a later part of it."""
    return await _read(browser, given.get("part", 1), "Read.")


async def click(browser: Browser, given: Arguments) -> Told:
    """Click an element, and wait for what that begins."""
    tab = _free(browser)
    moves = tab.moves
    await hands.click(tab, hands.named(tab, given["ref"]), 2 if given.get("double") else 1)
    await _settled(browser, tab, moves)
    return Told("Clicked.")


async def type_text(browser: Browser, given: Arguments) -> Told:
    """Have a field hold a text, and perhaps send its form off."""
    tab = _free(browser)
    moves = tab.moves
    held = await hands.type_text(tab, hands.named(tab, given["ref"]), given["text"])
    lines = ["The field holds a secret now."] if held is None else [f"The field holds: {quoted(held)}"]
    if not given.get("submit"):
        return Told("Typed.", lines)
    await hands.press(tab, "Enter")
    await _settled(browser, tab, moves)
    return Told("Typed, and pressed Enter.", lines)


async def key(browser: Browser, given: Arguments) -> Told:
    """Press a key, in what has the focus."""
    tab = _free(browser)
    moves = tab.moves
    await hands.press(tab, given["key"])
    await _settled(browser, tab, moves)
    return Told("Pressed.")


async def select(browser: Browser, given: Arguments) -> Told:
    """Choose an option."""
    tab = _free(browser)
    moves = tab.moves
    chosen = await hands.select(tab, hands.named(tab, given["ref"]), given["option"])
    await _settled(browser, tab, moves)
    return Told("Selected.", [f"Selected is: {quoted(chosen)}"])


async def scroll(browser: Browser, given: Arguments) -> Told:
    """Scroll the page, or what an element is in."""
    tab = _free(browser)
    await hands.scroll(tab, hands.named(tab, given["ref"]) if "ref" in given else None, given["direction"])
    return Told("Scrolled.")


async def back(browser: Browser, given: Arguments) -> Told:
    """Go back to the page before."""
    tab, moves = _free(browser), _free(browser).moves
    history = await tab.call("Page.getNavigationHistory")
    if history["currentIndex"] == 0:
        raise ToolFailed("There is no page before this one.")
    entry = history["entries"][history["currentIndex"] - 1]["id"]
    await tab.call("Page.navigateToHistoryEntry", entryId=entry)
    await _settled(browser, tab, moves)
    return Told("Went back.")


async def screenshot(browser: Browser, given: Arguments) -> Told:
    """Show the part of the page that is in view."""
    return Told("The picture shows what is in view.", jpeg=await reading.picture(_free(browser)))


async def wait(browser: Browser, given: Arguments) -> Told:
    """Wait for a text to be on the page, or for a time to pass."""
    tab, seconds = _free(browser), given.get("seconds", _WAIT_S)
    if "text" not in given:
        await tab.protocol.until(lambda: tab.dialog or tab.is_gone, seconds)
        return Told(f"Waited {seconds} seconds.")
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not await _has(browser.front, given["text"]):
        if loop.time() > deadline:
            raise ToolFailed(f"The text was not on the page within {seconds} seconds.")
        await asyncio.sleep(_POLL_S)
    return Told("The text is on the page.")


async def tabs(browser: Browser, given: Arguments) -> Told:
    """List the pages that are open, after one was brought to the front or closed."""
    if "close" in given:
        await _close(browser, _numbered(browser, given["close"]))
    if "show" in given:
        browser.show(_numbered(browser, given["show"]))
    lines = [
        f"{number}. {reading.where(tab.title, tab.url)}{' (in front)' if tab is browser.front else ''}"
        for number, tab in enumerate(browser.tabs, 1)
    ]
    return Told("These pages are open.", lines)


async def dialog(browser: Browser, given: Arguments) -> Told:
    """Answer the dialog of the page in front."""
    tab = browser.front
    if tab.dialog is None:
        raise ToolFailed("The page has no dialog open.")
    moves, tab.dialog = tab.moves, None
    await tab.call("Page.handleJavaScriptDialog", accept=given["accept"], promptText=given.get("text", ""))
    await _settled(browser, tab, moves)
    return Told("Answered.")


async def upload(browser: Browser, given: Arguments) -> Told:
    """Give a file of the sandbox to the page."""
    tab = _free(browser)
    await hands.upload(tab, hands.named(tab, given["ref"]) if "ref" in given else None, given["path"])
    return Told("The file is given to the page.")


def address(words: str) -> str:
    """An address as a person may type it, as a URL."""
    words = words.strip()
    if _SCHEME.match(words):
        return words
    return f"{'http' if _HERE.match(words) else 'https'}://{words}"


def _free(browser: Browser) -> Tab:
    """The page in front.

    Raises:
        Interrupted: it waits for the answer to a dialog.
    """
    if browser.front.dialog is not None:
        raise Interrupted
    return browser.front


async def _leavable(browser: Browser) -> Tab:
    """The page in front if it can be left, free of its dialog; another in its place otherwise."""
    if not browser.tabs:
        return await browser.new()
    tab = browser.front
    if tab.dialog is not None:
        tab.dialog = None
        browser.close_dialog(tab, accept=False)
    return tab if await _answers(tab) else await _instead(browser, tab)


async def _instead(browser: Browser, tab: Tab) -> Tab:
    """An empty page in place of one that nothing can be done with."""
    fresh = await browser.new()
    browser.give_up(tab)
    return fresh


async def _came(tab: Tab, url: str) -> bool:
    """Go to an address; whether its document came to stay, which the page that is left can prevent: by a script that
    never rests, run as it is left, by a dialog at that moment, or by going elsewhere just before it is.

    Raises:
        ToolFailed: the address cannot be opened.
    """
    going = tab.protocol.post("Page.navigate", tab.session, url=url)
    lives = tab.protocol.post("Runtime.evaluate", tab.session, expression="1")
    try:
        await tab.protocol.until(lambda: going.done() or tab.is_gone, _COMES_S)
        if not going.done() and not lives.done():
            return False
        answer = await tab.answered(going, _OPEN_S)
    except Silent as error:
        raise ToolFailed(f"The address has not answered within {_OPEN_S:.0f} seconds.") from error
    except Gone:
        return False
    if answer.get("errorText"):
        raise ToolFailed(f"The address cannot be opened: {quoted(str(answer['errorText']))}")
    document = answer.get("loaderId")
    if document is None:
        return True
    await tab.protocol.until(lambda: document in tab.came or tab.is_gone, _COMES_S)
    return tab.came.get(document, False)


async def _answers(tab: Tab) -> bool:
    try:
        await tab.call("Runtime.evaluate", within_s=_ANSWERS_S, expression="1")
    except (Silent, Interrupted, Gone):
        return False
    return True


async def _settled(browser: Browser, tab: Tab, moves: int) -> None:
    """Wait for what an act on a page began, there or on a page that has come in front of it."""
    await tab.settle(moves)
    if tab.opens:
        tab.opens = False
        await browser.protocol.until(lambda: not browser.tabs or browser.front is not tab, _COMES_S)
        if browser.tabs and browser.front is not tab:
            await browser.front.begins(_COMES_S)


async def _read(browser: Browser, number: int, done: str) -> Told:
    part = await reading.read(_free(browser), number)
    if not part.lines and number > 1:
        raise ToolFailed("The page has no such part.")
    if not part.has_more:
        return Told(done, part.lines, at=part.at)
    more = f"{done} The page is long: this is part {number}; browser_read with part {number + 1} goes on."
    return Told(more, part.lines, at=part.at)


async def _has(tab: Tab, text: str) -> bool:
    try:
        return any([await tab.run(frame, "has", text) for frame in await tab.frames()])
    except Gone:
        if tab.is_gone:
            raise
        return False


def _numbered(browser: Browser, number: int) -> Tab:
    if not 0 < number <= len(browser.tabs):
        raise ToolFailed(f"There is no page {number}; there are {len(browser.tabs)}.")
    return browser.tabs[number - 1]


async def _close(browser: Browser, tab: Tab) -> None:
    if len(browser.tabs) == 1:
        raise ToolFailed("It is the only page: open another address in it instead.")
    browser.protocol.post("Target.closeTarget", targetId=tab.target)
    if not await browser.protocol.until(lambda: tab not in browser.tabs, _CLOSE_S):
        raise ToolFailed("The page does not close.")
