"""Hands on a page: clicks, typing, keys, choosing and scrolling, as trusted input wherever a person's would be."""

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from boxkeep_tools.faults import Gone, ToolFailed
from boxkeep_tools.keys import key
from boxkeep_tools.tab import Frame, Tab
from boxkeep_tools.words import quoted

_SCROLLED: Final = 0.8
_LOOK_S: Final = 0.15
_LOOKS_MOST: Final = 10
_DIRECTIONS: Final = {"down": (0, 1), "up": (0, -1), "right": (1, 0), "left": (-1, 0)}
DIRECTIONS: Final = tuple(_DIRECTIONS)
_LEFT: Final = "The element is not on the page any more: call browser_read for the present ones."


@dataclass(frozen=True)
class Element:
    """An element that a ref names."""

    frame: Frame
    at: int


def named(tab: Tab, ref: str) -> Element:
    """The element of a ref.

    Raises:
        ToolFailed: it was never given out.
    """
    return Element(*tab.found(ref))


async def click(tab: Tab, element: Element, count: int = 1) -> None:
    """Click in the middle of an element, where nothing lies over it."""
    x, y = await _spot(tab, element)
    await _mouse(tab, "mouseMoved", x, y)
    for number in range(1, count + 1):
        await _mouse(tab, "mousePressed", x, y, button="left", buttons=1, clickCount=number)
        await _mouse(tab, "mouseReleased", x, y, button="left", clickCount=number)


async def type_text(tab: Tab, element: Element, text: str) -> str | None:
    """Have a field hold a text and nothing else. What it holds then; None where that is a secret."""
    prepared = await _done(tab, element, "prepare", text)
    if not prepared.get("set"):
        if text:
            await tab.call("Input.insertText", text=text)
        else:
            await press(tab, "Delete")
    held: str | None = await _asked(tab, element, "value")
    return held


async def press(tab: Tab, name: str) -> None:
    """Press and release a key of that name."""
    pressed = key(name)
    await tab.call("Input.dispatchKeyEvent", **pressed.down)
    await tab.call("Input.dispatchKeyEvent", **pressed.up)


async def select(tab: Tab, element: Element, option: str) -> str:
    """Choose an option by its label or value; its label."""
    chosen: str = (await _done(tab, element, "select", option))["chosen"]
    return chosen


async def upload(tab: Tab, element: Element | None, path: str) -> None:
    """Give a file to a field for files, or to the question for one that the page has put last."""
    if element is not None:
        handle = await tab.handle(element.frame, element.at)
        if handle is None:
            raise Gone(_LEFT)
        await tab.call("DOM.setFileInputFiles", element.frame.session, files=[path], objectId=handle)
    elif tab.chooser is not None:
        await tab.call("DOM.setFileInputFiles", files=[path], backendNodeId=tab.chooser)
    else:
        raise ToolFailed("The page has not asked for a file: name the field for files by its ref, or click it first.")
    tab.chooser = None


async def scroll(tab: Tab, element: Element | None, direction: str) -> None:
    """Turn the wheel over an element, or over the middle of the page, by most of what is seen."""
    size = await tab.run((await tab.frames())[0], "size")
    spot = (size["width"] / 2, size["height"] / 2) if element is None else await _spot(tab, element, covered=True)
    right, down = _DIRECTIONS[direction]
    far = {"deltaX": right * _SCROLLED * size["width"], "deltaY": down * _SCROLLED * size["height"]}
    await _mouse(tab, "mouseWheel", *spot, **far)


async def _spot(tab: Tab, element: Element, covered: bool = False) -> tuple[float, float]:
    """Where on the page an element is, after it has been scrolled into view.

    Raises:
        ToolFailed: it is not shown, or something else lies over it and `covered` does not allow that.
    """
    found = await _asked(tab, element, "spot")
    if found.get("hidden"):
        raise ToolFailed("The element is not shown now. Do what shows it first, or call browser_read again.")
    if found["over"] is not None and not covered:
        raise ToolFailed(f"Something lies over the element; close or scroll it away: {quoted(found['over'])}")
    x, y = await _still(tab, element.frame)
    return x + found["x"], y + found["y"]


async def _still(tab: Tab, frame: Frame) -> tuple[float, float]:
    """Where on the page a frame begins once that stays so: the page of one in a process of its own scrolls later."""
    where = await tab.offset(frame)
    for _ in range(_LOOKS_MOST if frame.session != tab.session else 0):
        await asyncio.sleep(_LOOK_S)
        before, where = where, await tab.offset(frame)
        if where == before:
            break
    return where


async def _asked(tab: Tab, element: Element, what: str, *more: Any) -> Any:
    """What one of our functions answers about an element.

    Raises:
        Gone: it is not there any more, or its page.
    """
    try:
        found = await tab.run(element.frame, what, element.at, *more)
    except Gone as gone:
        raise gone if tab.is_gone else Gone(_LEFT) from gone
    if isinstance(found, dict) and found.get("gone"):
        raise Gone(_LEFT)
    return found


async def _done(tab: Tab, element: Element, what: str, *more: Any) -> dict[str, Any]:
    """What one of our functions answers that may refuse to do something with an element."""
    found: dict[str, Any] = await _asked(tab, element, what, *more)
    if "refused" in found:
        words = f" There are: {quoted(found['words'], 2000)}" if "words" in found else ""
        raise ToolFailed(found["refused"] + words)
    return found


async def _mouse(tab: Tab, kind: str, x: float, y: float, **more: Any) -> None:
    await tab.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)
