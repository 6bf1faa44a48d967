"""Browsers of sandboxes: how each is started, and what users do with one."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

import orjson

from boxkeep_server.control.companions import Companions, Kind
from boxkeep_server.control.handoffs import Handoffs
from boxkeep_server.control.keys import Caller
from boxkeep_server.control.sandboxes import Sandboxes
from boxkeep_server.control.secrets import Secrets
from boxkeep_server.control.visits import Duplex, Visits
from boxkeep_server.model.browsers import (
    DEVTOOLS_PORT,
    DISPLAY_PORT,
    NAME,
    RECORDINGS_FOLDER,
    Browser,
    BrowserWish,
    browser_of,
    browser_wish,
)
from boxkeep_server.model.companions import CompanionState
from boxkeep_server.model.errors import Conflict, NotReady, TimedOut
from boxkeep_server.model.events import EventType
from boxkeep_server.model.handoffs import mode_of
from boxkeep_server.model.sandboxes import Sandbox

PROGRAM: Final = "/.boxkeep/guest/bin/desktop"
START_S: Final = 60.0
LOOK_S: Final = 0.5
RECORDING_S: Final = 120
USER: Final = "user"
KEPT_PROFILE: Final = "/home/user/.config/boxkeep-browser"
PASSING_PROFILE: Final = "/dev/shm/boxkeep-browser"  # noqa: S108 - of a sandbox; gVisor writes no deleted file of a disk down


class Browsers:
    """The use cases. All raise `SandboxNotFound`, and those that do something `NotReady` and `Conflict`. A file of a
    recording is of `recording_s` seconds."""

    def __init__(
        self,
        sandboxes: Sandboxes,
        secrets: Secrets,
        companions: Companions,
        handoffs: Handoffs,
        visits: Visits,
        recording_s: int = RECORDING_S,
    ) -> None:
        self._sandboxes = sandboxes
        self._secrets = secrets
        self._companions = companions
        self._handoffs = handoffs
        self._visits = visits
        self._recording_s = recording_s

    def wanted(self, sandbox: Sandbox) -> Sequence[Kind]:
        """The companions that a sandbox's browser is made of."""
        wish = browser_wish(sandbox.capabilities)
        if wish is None:
            return ()
        return (
            Kind(
                name=NAME,
                program=PROGRAM,
                told_first=partial(self._wish, sandbox, wish),
                user=USER,
                became_ready=EventType.BROWSER_READY,
                became_failed=EventType.BROWSER_FAILED,
            ),
        )

    async def _wish(self, sandbox: Sandbox, wish: BrowserWish) -> bytes:
        told = {
            "width": wish.width,
            "height": wish.height,
            "profile": KEPT_PROFILE if wish.persistent_profile else PASSING_PROFILE,
            "keepProfile": wish.persistent_profile,
            "proxy": await self._secrets.proxy_url(sandbox.id) or wish.proxy_url,
            "driver": mode_of(await self._handoffs.latest(sandbox.id)),
            "devtoolsPort": DEVTOOLS_PORT,
            "displayPort": DISPLAY_PORT,
            "recordings": RECORDINGS_FOLDER if wish.recording else None,
            "recordingS": self._recording_s,
        }
        return orjson.dumps(told) + b"\n"

    async def of(self, sandbox: Sandbox) -> Browser | None:
        """A sandbox's browser as it is now, None where it has none."""
        if not sandbox.running or browser_wish(sandbox.capabilities) is None:
            return None
        companion = (await self._companions.of(sandbox.id)).get(NAME)
        return browser_of(sandbox, companion)

    async def read(self, caller: Caller, sandbox_id: str) -> tuple[Sandbox, Browser]:
        """A caller's sandbox and its browser.

        Raises:
            NotReady, Conflict: it does not run now, or has none.
        """
        sandbox = await self._sandboxes.get(caller, sandbox_id)
        if browser_wish(sandbox.capabilities) is None:
            raise Conflict("The sandbox has no browser: it was not created with one in capabilities.browser.mode")
        browser = await self.of(sandbox)
        if browser is None:
            raise NotReady
        return sandbox, browser

    async def display(self, caller: Caller, sandbox_id: str) -> Duplex:
        """A connection to the display, which speaks VNC; close it when done. Raises as `devtools`."""
        _, browser = await self.read(caller, sandbox_id)
        return await self._dialled(caller, sandbox_id, browser.display)

    async def devtools(self, caller: Caller, sandbox_id: str) -> Duplex:
        """A connection to the door to the browser's protocol, which speaks HTTP; close it when done.

        Raises:
            NotReady, Conflict: it does not run now, has none, or none yet.
            SandboxFault, Unavailable, TimedOut: as the sandbox is.
        """
        _, browser = await self.read(caller, sandbox_id)
        return await self._dialled(caller, sandbox_id, browser.devtools)

    async def _dialled(self, caller: Caller, sandbox_id: str, port: int | None) -> Duplex:
        if port is None:
            raise Conflict("The browser is starting")
        visit = await self._visits.begin(caller, sandbox_id)
        return await visit.duplex({"op": "port.dial", "port": port})

    async def start(self, caller: Caller, sandbox_id: str, url: str | None) -> None:
        """Wait until the browser is ready, tried anew where it had been given up, and have it go to a URL, if any.

        Raises:
            TimedOut: it is not ready in time.
        """
        sandbox, browser = await self.read(caller, sandbox_id)
        if browser.status is CompanionState.FAILED:
            await self._companions.try_again(sandbox, NAME)
        try:
            async with asyncio.timeout(START_S):
                while browser.status is not CompanionState.READY:
                    await self._sandboxes.hear(sandbox.id, LOOK_S)
                    _, browser = await self.read(caller, sandbox_id)
        except TimeoutError as late:
            raise TimedOut("The browser is not ready yet") from late
        if url is not None:
            await self.navigate(caller, sandbox_id, url)

    async def navigate(self, caller: Caller, sandbox_id: str, url: str) -> None:
        """Have the page in front go to a URL. Raises also as `Companions.order`."""
        sandbox, _ = await self.read(caller, sandbox_id)
        await self._companions.order(sandbox, NAME, do="navigate", url=url)

    async def resize(self, caller: Caller, sandbox_id: str, width: int, height: int) -> None:
        """Give pages another size, in pixels. Raises also as `Companions.order`."""
        sandbox, _ = await self.read(caller, sandbox_id)
        await self._companions.order(sandbox, NAME, do="resize", width=width, height=height)
