"""What a desktop is to be, as the control plane has wished it: one JSON object."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from boxkeep_desktop.holds import MODES, Mode
from boxkeep_desktop.proxies import Proxy, read_proxy

LEAST: Final = 100
MOST: Final = 7680


class BadWish(ValueError):
    """The wish cannot be understood; the sentence says why."""


@dataclass(frozen=True)
class Wish:
    """The size of a page in pixels; where Chromium keeps its profile, and whether what is there is kept; the proxy that
    it goes by; who drives at first; the ports of loopback to serve its protocol and the display on, where they are
    free; where the screen is recorded, if it is, and how many seconds of it in one file."""

    width: int
    height: int
    profile: Path
    keep_profile: bool
    proxy: Proxy | None
    driver: Mode
    devtools_port: int
    display_port: int
    recordings: Path | None
    recording_s: float


def read_wish(text: bytes) -> Wish:
    """The wish that a text says.

    Raises:
        BadWish
    """
    try:
        said = json.loads(text)
        return Wish(
            width=_within(said["width"]),
            height=_within(said["height"]),
            profile=Path(said["profile"]),
            keep_profile=bool(said["keepProfile"]),
            proxy=None if said["proxy"] is None else read_proxy(said["proxy"]),
            driver=_mode(said["driver"]),
            devtools_port=int(said["devtoolsPort"]),
            display_port=int(said["displayPort"]),
            recordings=None if said["recordings"] is None else Path(said["recordings"]),
            recording_s=float(said["recordingS"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadWish(f"the wish cannot be understood: {type(error).__name__}") from None  # it may hold a password


def _mode(name: Any) -> Mode:
    if name not in MODES:
        raise ValueError(f"nobody who could drive: {name!r}")
    return next(mode for mode in MODES if mode == name)


def _within(pixels: Any) -> int:
    if not isinstance(pixels, int) or not LEAST <= pixels <= MOST:
        raise ValueError(f"not a size: {pixels!r}")
    return pixels
