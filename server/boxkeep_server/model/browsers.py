"""The browser of a sandbox: what was wished of it, and who drives it; pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from boxkeep_server.model.companions import Companion, CompanionState
from boxkeep_server.model.images import LOCAL
from boxkeep_server.model.node_api import Role
from boxkeep_server.model.sandboxes import Sandbox

ControlMode = Literal["ai", "shared", "human"]
NAME: Final = "browser"
PAIRED: Final = "paired-banata-browser"
"""The mode of a browser that runs in a machine of its own."""
WIDTH: Final = 1280
HEIGHT: Final = 720
DEVTOOLS_PORT: Final = 9222
DISPLAY_PORT: Final = 5900
DEVTOOLS: Final = "devtools"
DISPLAY: Final = "display"
DRIVER: Final = "driver"
RECORDINGS: Final = "recordings"
"""What a browser says of itself: two ports, who drives it, and how many recordings wait in it to be published."""
RECORDINGS_FOLDER: Final = "/home/user/.local/state/boxkeep-recordings"
"""Where they wait: on the disk, so that pauses that keep files keep them."""


@dataclass(frozen=True, slots=True)
class BrowserWish:
    """What a client has wished of a sandbox's browser. The size is that of a page, in pixels; the URL of the proxy is
    without user and password."""

    width: int
    height: int
    persistent_profile: bool
    human_in_loop: bool
    proxy_url: str | None
    recording: bool


def browser_wish(capabilities: Mapping[str, object] | None) -> BrowserWish | None:
    """The wish among a sandbox's capabilities; None where it is to have no browser."""
    browser = (capabilities or {}).get("browser")
    if not isinstance(browser, Mapping) or browser.get("mode") not in (LOCAL, PAIRED):
        return None
    size = browser.get("viewport") or {}
    return BrowserWish(
        width=size.get("width", WIDTH),
        height=size.get("height", HEIGHT),
        persistent_profile=browser.get("persistentProfile") is True,
        human_in_loop=browser.get("humanInLoop") is True,
        proxy_url=browser.get("byoProxyUrl"),
        recording=browser.get("recording") is True,
    )


def sides_of(capabilities: Mapping[str, object] | None) -> tuple[Role, ...]:
    """The roles of the machines that a sandbox of these capabilities has beside its main one."""
    browser = (capabilities or {}).get("browser")
    return ("browser",) if isinstance(browser, Mapping) and browser.get("mode") == PAIRED else ()


@dataclass(frozen=True, slots=True)
class Browser:
    """A sandbox's browser as it is now. `devtools` and `display` are ports of loopback inside, where it serves them;
    `human_in_loop`: a person may take it over; `recording`: what its screen shows is to be recorded."""

    status: CompanionState
    reason: str | None
    mode: ControlMode
    devtools: int | None
    display: int | None
    updated_at: int
    human_in_loop: bool
    recording: bool

    @property
    def recorded(self) -> bool:
        """Whether what the screen shows now is recorded: not while a person drives alone."""
        return self.recording and self.mode != "human"


def browser_of(sandbox: Sandbox, companion: Companion | None) -> Browser | None:
    """The browser of a sandbox, None where it has none, or none that lives now."""
    wish = browser_wish(sandbox.capabilities)
    if not sandbox.running or wish is None:
        return None
    human, recording = wish.human_in_loop, wish.recording
    if companion is None or companion.epoch != sandbox.epoch:
        began = sandbox.ready_at or sandbox.created_at
        return Browser(CompanionState.STARTING, None, "ai", None, None, began, human, recording)
    return Browser(
        status=companion.state,
        reason=companion.reason,
        mode=_driver(companion),
        devtools=companion.ports.get(DEVTOOLS),
        display=companion.ports.get(DISPLAY),
        updated_at=companion.updated_at,
        human_in_loop=human,
        recording=recording,
    )


def _driver(companion: Companion) -> ControlMode:
    """Who drives it, as it has said itself: what is written takes a moment to be so."""
    match companion.facts.get(DRIVER):
        case "shared":
            return "shared"
        case "human":
            return "human"
    return "ai"
