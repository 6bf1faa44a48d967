"""What an agent gets to see of a page: its text with numbered elements in parts, and pictures of bounded size."""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any, Final

from boxkeep_tools.faults import Gone, Silent, ToolFailed
from boxkeep_tools.tab import Tab
from boxkeep_tools.words import clean, quoted

PART_CHARACTERS: Final = 16_000
PARTS_MOST: Final = 50
_TRIES: Final = 3
_READ_S: Final = 20.0
_FRAME_S: Final = 5.0
_HERE_S: Final = 3.0
_ERROR: Final = "chrome-error:"
_FRAME: Final = "(in a frame of the page:)"
_MUTE: Final = "(a frame of the page does not answer)"
_PICTURE_SIDE: Final = 1280
_PICTURE_MOST: Final = 400_000
_QUALITIES: Final = (70, 40, 15)


@dataclass(frozen=True)
class Part:
    """Lines of a page, whether more follow, and title and URL of where they were read."""

    lines: list[str]
    has_more: bool
    at: tuple[str, str]


async def read(tab: Tab, part: int) -> Part:
    """A part of a page, from 1 on; its frames follow its own document.

    Raises:
        ToolFailed: it never stands still for long enough, or does not answer.
    """
    for _ in range(_TRIES):
        try:
            await tab.rest()
            return await _read(tab, (part - 1) * PART_CHARACTERS)
        except Gone:
            if tab.is_gone:
                raise
    raise ToolFailed("The page goes from one address to the next all the time and cannot be read. Open another.")


async def _read(tab: Tab, begin: int) -> Part:
    end = begin + PART_CHARACTERS
    whole, *inner = await tab.frames()
    found = await tab.run(whole, "read", begin, end, within_s=_READ_S)
    lines, seen, more = [clean(line) for line in found["lines"]], found["length"], found["more"]
    at = _known(tab, found["title"], found["url"])
    for frame in inner:
        if seen >= end:
            break
        try:
            found = await tab.run(frame, "read", max(0, begin - seen), end - seen, within_s=_FRAME_S)
        except Gone:
            continue
        except Silent:
            lines.append(_MUTE)
            continue
        lines += [_FRAME, *(clean(line) for line in found["lines"])] if found["lines"] else []
        seen, more = seen + found["length"], more or found["more"]
    if tab.inner.keys() - {frame.session for frame in inner}:
        lines.append(_MUTE)
    return Part(lines, more, at)


def where(title: str, url: str) -> str:
    """Which page it is, in a line."""
    return f"{quoted(title)} at {quoted(url, 1000)}"


async def here(tab: Tab) -> tuple[str, str]:
    """Title and URL of what a page shows now, told by itself: the protocol tells them late or never.

    One that does not answer has those that it had, and so has the page of an error, which names no address.
    """
    with contextlib.suppress(ToolFailed, TimeoutError):
        async with asyncio.timeout(_HERE_S):
            return _known(tab, *await tab.here(_HERE_S))
    return tab.title, tab.url


def _known(tab: Tab, title: str, url: str) -> tuple[str, str]:
    if not url.startswith(_ERROR):
        tab.title, tab.url = title, url
    return tab.title, tab.url


async def picture(tab: Tab) -> str:
    """What is seen of a page as a JPEG in base64, scaled and coarsened until it is small enough."""
    await tab.call("Page.bringToFront")
    metrics = await tab.call("Page.getLayoutMetrics")
    view = metrics["cssVisualViewport"]
    for quality in _QUALITIES:
        made = await tab.call("Page.captureScreenshot", **_shot(view, quality))
        data: str = made["data"]
        if len(data) <= _PICTURE_MOST:
            return data
    raise ToolFailed("The page gives no picture that is small enough.")


def _shot(view: dict[str, Any], quality: int) -> dict[str, Any]:
    """How a picture is to be taken: a part of the page is named only where it has to be made smaller."""
    shot: dict[str, Any] = {"format": "jpeg", "quality": quality}
    side = max(view["clientWidth"], view["clientHeight"])
    if side > _PICTURE_SIDE:
        box = {"x": view["pageX"], "y": view["pageY"], "width": view["clientWidth"], "height": view["clientHeight"]}
        shot["clip"] = {**box, "scale": _PICTURE_SIDE / side}
    return shot
