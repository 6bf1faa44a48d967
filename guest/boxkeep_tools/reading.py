"""What an agent gets to see of a page: its text with numbered elements in parts, and pictures of bounded size."""

import contextlib
from dataclasses import dataclass
from typing import Any, Final

from boxkeep_tools.faults import Gone, Interrupted, ToolFailed
from boxkeep_tools.tab import Tab
from boxkeep_tools.words import clean, quoted

PART_CHARACTERS: Final = 16_000
PARTS_MOST: Final = 50
_TRIES: Final = 3
_READ_S: Final = 20.0
_TITLE_S: Final = 1.0
_READY_S: Final = 10.0
_PICTURE_SIDE: Final = 1280
_PICTURE_MOST: Final = 400_000
_QUALITIES: Final = (70, 40, 15)


@dataclass(frozen=True)
class Part:
    """Lines of a page, and whether more follow."""

    lines: list[str]
    has_more: bool


async def read(tab: Tab, part: int) -> Part:
    """A part of a page, from 1 on; its frames follow its own document.

    Raises:
        ToolFailed: it never stands still for long enough, or does not answer.
    """
    for _ in range(_TRIES):
        try:
            await _ready(tab)
            return await _read(tab, (part - 1) * PART_CHARACTERS)
        except Gone:
            if tab.is_gone:
                raise
            await tab.settle(tab.moves)
    raise ToolFailed("The page goes from one address to the next all the time and cannot be read. Open another.")


async def _ready(tab: Tab) -> None:
    await tab.protocol.until(lambda: not tab.is_loading or tab.dialog or tab.is_gone, _READY_S)


async def _read(tab: Tab, begin: int) -> Part:
    lines: list[str] = []
    end, seen, more = begin + PART_CHARACTERS, 0, False
    frames = await tab.frames()
    for frame in frames:
        window = (max(0, begin - seen), max(0, end - seen))
        try:
            found = await tab.run(frame, "read", tab.number(frame), *window, within_s=_READ_S)
        except Gone:
            if frame is frames[0]:
                raise
            continue
        if frame is not frames[0] and found["lines"]:
            lines.append("(in a frame of the page:)")
        lines += [clean(line) for line in found["lines"]]
        seen += found["length"]
        more = more or found["more"]
        if seen >= end:
            break
    return Part(lines, more)


def where(tab: Tab) -> str:
    """Which page it is, in a line."""
    return f"{quoted(tab.title)} at {quoted(tab.url, 1000)}"


async def know(tab: Tab) -> None:
    """Ask a page for its title, which the protocol tells late or never; one that does not answer keeps what it had."""
    with contextlib.suppress(ToolFailed, Interrupted):
        (frame, *_) = await tab.frames()
        tab.title = str(await tab.run(frame, "title", within_s=_TITLE_S))


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
