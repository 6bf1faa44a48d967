"""The browser as it is while a connection to it lasts: its pages, which of them is in front, and what happens in it."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from boxkeep_tools.faults import Gone, ToolFailed
from boxkeep_tools.protocol import Answer, Protocol
from boxkeep_tools.tab import EMPTY, Dialog, Tab
from boxkeep_tools.words import quoted

_BEGIN_S: Final = 20.0
_TABS_MOST: Final = 30
_NOTES_MOST: Final = 12
_DIALOGS_MOST: Final = 20
"""So many in the time of one call, and the page is closed."""
_STUCK_S: Final = 1.0
_CLOSES_S: Final = 5.0
_PAGES: Final = [{"type": "page"}]
_FRAMES: Final = [{"type": "iframe"}]
_WITHIN: Final = ("sameDocument", "historySameDocument")


class Browser:
    """A connected browser. Alerts and questions before leaving are answered at once; others wait for the agent."""

    protocol: Protocol

    def __init__(self) -> None:
        self.notes: deque[str] = deque(maxlen=_NOTES_MOST)
        self.tabs: list[Tab] = []
        self._front: Tab | None = None
        self._made: Answer | None = None
        self._downloads: dict[str, str] = {}
        self._begun = False

    @classmethod
    async def connect(cls, port: int) -> "Browser":
        """Connect by the door on a port of loopback.

        Raises:
            Away, Held
        """
        browser = cls()
        browser.protocol = await Protocol.connect(port, browser._heard)
        try:
            await browser._begin()
        except BaseException:
            await browser.close()
            raise
        return browser

    async def close(self) -> None:
        """Let go of it. A page that is stuck goes before: Chromium aborts if we leave it so."""
        stuck = [tab for tab in self.tabs if tab.is_stuck]
        for tab in stuck:
            self.give_up(tab)
        with contextlib.suppress(ToolFailed):
            await self.protocol.until(lambda: not any(tab in self.tabs for tab in stuck), _CLOSES_S)
        await self.protocol.close()

    @property
    def front(self) -> Tab:
        """The page that is worked with.

        Raises:
            Gone: there is none.
        """
        if self._front is None:
            raise Gone("No page is open. Open one by browser_open.")
        return self._front

    def show(self, tab: Tab | None) -> None:
        """Have a page in front."""
        self._front = tab
        if tab is not None:
            self.protocol.post("Page.bringToFront", tab.session)

    async def new(self) -> Tab:
        """An empty page, in front: one that nothing was done with since it was made, or a new one."""
        if not self._has_empty():
            self._make()
        await self.protocol.until(lambda: (tab := self._empty()) and tab.enabled.done(), _BEGIN_S)
        tab = self._empty()
        if tab is None:
            raise ToolFailed("The browser opens no page.")
        self.show(tab)
        return tab

    def give_up(self, tab: Tab) -> None:
        """Close a page that nothing can be done with. Another is there in its place: without any the browser ends."""
        tab.is_gone = True
        if all(other.is_gone for other in self.tabs) and not self._has_empty():
            self._make()
        self.protocol.post("Target.closeTarget", targetId=tab.target)

    def _make(self) -> None:
        self._made = self.protocol.post("Target.createTarget", url="about:blank")

    def _has_empty(self) -> bool:
        """Whether there is an empty page of ours, or one is on its way."""
        return self._is_making() or self._empty() is not None

    def _is_making(self) -> bool:
        return self._made is not None and not self._made.done()

    def _empty(self) -> Tab | None:
        """The page that we have made last, if nothing was done with it."""
        if self._made is None or not self._made.done() or self._made.exception() is not None:
            return None
        target = self._made.result()["targetId"]
        return next((tab for tab in self.tabs if tab.target == target and not tab.moves and not tab.is_gone), None)

    def take_notes(self) -> list[str]:
        """What has happened since this was asked last."""
        notes = list(self.notes)
        self.notes.clear()
        for tab in self.tabs:
            tab.dialogs = 0
        return notes

    async def _begin(self) -> None:
        # The first call is one that is refused while a person drives: nothing is begun then.
        downloads = self.protocol.post("Browser.setDownloadBehavior", behavior="default", eventsEnabled=True)
        self.protocol.post("Target.setDiscoverTargets", discover=True, filter=_PAGES)
        attached = self.protocol.post(
            "Target.setAutoAttach", autoAttach=True, waitForDebuggerOnStart=False, flatten=True, filter=_PAGES
        )
        listed = self.protocol.post("Target.getTargets", filter=_PAGES)
        answers = (downloads, attached, listed)
        if not await self.protocol.until(lambda: all(one.done() for one in answers), _BEGIN_S):
            raise ToolFailed("The browser does not answer. Try again in some seconds.")
        first = [one["targetId"] for one in listed.result()["targetInfos"]]
        self.show(next((tab for name in first for tab in self.tabs if tab.target == name), None))
        self._begun = True

    def _heard(self, session: str | None, event: str, said: dict[str, Any]) -> None:
        domain, _, name = event.partition(".")
        if domain == "Target":
            self._of_targets(session, name, said)
        elif domain == "Browser":
            self._of_downloads(name, said)
        elif domain in ("Page", "Inspector"):
            tab = self._with(session)
            if tab is not None:
                self._of_page(tab, session == tab.session, name, said)

    def _with(self, session: str | None) -> Tab | None:
        return next((tab for tab in self.tabs if session == tab.session or session in tab.inner), None)

    def _of_targets(self, session: str | None, name: str, said: Mapping[str, Any]) -> None:
        match name:
            case "attachedToTarget":
                self._attached(session, said["sessionId"], said["targetInfo"])
            case "detachedFromTarget":
                self._detached(said["sessionId"])
            case "targetInfoChanged":
                for tab in self.tabs:
                    if tab.target == said["targetInfo"]["targetId"]:
                        tab.title, tab.url = said["targetInfo"]["title"], said["targetInfo"]["url"]

    def _attached(self, around: str | None, session: str, info: Mapping[str, Any]) -> None:
        tab = self._with(around)
        if tab is not None:
            tab.inner[session] = (around or tab.session, info["targetId"])
            self.protocol.post("Page.enable", session)
        elif info["type"] == "page" and (len(self.tabs) < _TABS_MOST or self._is_making()):
            enabled = self.protocol.post("Page.enable", session)
            tab = Tab(self.protocol, info["targetId"], session, enabled, info["title"], info["url"])
            self._opened(tab)
        else:
            self._let_run(session)
            self.protocol.post("Target.detachFromTarget", sessionId=session)
            return
        self.protocol.post("Page.setInterceptFileChooserDialog", session, enabled=True)
        self.protocol.post(
            "Target.setAutoAttach", session, autoAttach=True, waitForDebuggerOnStart=False, flatten=True, filter=_FRAMES
        )
        self._let_run(session)

    def _let_run(self, session: str) -> None:
        """Have a page or frame go on that Chromium stops as we come to it: a new one with whoever opened it, and though
        it says that it does not wait."""
        self.protocol.post("Runtime.runIfWaitingForDebugger", session)

    def _opened(self, tab: Tab) -> None:
        """The newest page is in front, as the browser itself has it."""
        self.tabs.append(tab)
        if self._begun:
            self._front = tab
        if self._begun and not self._is_making():
            self.notes.append("A new page has opened in a tab of its own, and is the one in front now.")

    def _detached(self, session: str) -> None:
        tab = self._with(session)
        if tab is None:
            return
        if session in tab.inner:
            del tab.inner[session]
            return
        tab.is_gone = True
        self.tabs.remove(tab)
        if tab is self._front:
            self.show(self.tabs[-1] if self.tabs else None)
            self.notes.append("The page that was in front has been closed.")

    def _of_page(self, tab: Tab, is_whole: bool, name: str, said: Mapping[str, Any]) -> None:
        match name:
            case "frameStartedLoading" if is_whole and said["frameId"] == tab.target:
                tab.moves += 1
                tab.is_loading = True
            case "frameStoppedLoading" if is_whole and said["frameId"] == tab.target:
                tab.is_loading = False
            case "frameStartedNavigating" if is_whole and said["frameId"] == tab.target:
                if said["navigationType"] not in _WITHIN:
                    tab.begun(said["loaderId"])
            case "frameNavigated" if is_whole and said["frame"]["id"] == tab.target:
                tab.shown(said["frame"]["loaderId"])
            case "javascriptDialogOpening":
                self._asked(tab, str(said["type"]), str(said["message"]))
            case "javascriptDialogClosed":
                tab.dialog, tab.is_stuck = None, False
            case "windowOpen" if said["userGesture"]:
                tab.opens = str(said["url"]) not in EMPTY
            case "fileChooserOpened":
                tab.chooser = said.get("backendNodeId")
                self.notes.append("The page asks for a file: give it one by browser_upload.")
            case "targetCrashed":
                tab.is_gone = True
                self.notes.append("The page has crashed.")

    def _asked(self, tab: Tab, kind: str, message: str) -> None:
        tab.dialogs += 1
        if tab.dialogs > _DIALOGS_MOST:
            if not tab.is_gone:
                self.notes.append("The page showed one dialog after the other, and was closed.")
                self.give_up(tab)
        elif kind in ("confirm", "prompt"):
            tab.dialog = Dialog(kind, message)
            self._unless_stuck(tab, self.protocol.post("Page.getNavigationHistory", tab.session))
        else:
            left = "The page asked whether it may be left. It was."
            shown = f"The page showed a message, which was closed: {quoted(message)}"
            self.notes.append(left if kind == "beforeunload" else shown)
            self.close_dialog(tab, accept=True)

    def close_dialog(self, tab: Tab, accept: bool) -> None:
        """Close the dialog that a page has open."""
        self._unless_stuck(tab, self.protocol.post("Page.handleJavaScriptDialog", tab.session, accept=accept))

    def _unless_stuck(self, tab: Tab, answer: Answer) -> None:
        """Notice by an answer about a page with a dialog whether that can be answered at all.

        One that opens at the very moment at which its page is left cannot: until the next page has come Chromium
        refuses all that is about either, and where both are in one process that waits for the dialog for ever.
        """

        def see(done: Answer) -> None:
            if not done.cancelled() and isinstance(done.exception(), Gone) and not tab.is_gone:
                tab.is_stuck = True
                asyncio.get_running_loop().call_later(_STUCK_S, self._give_up_stuck, tab)

        answer.add_done_callback(see)

    def _give_up_stuck(self, tab: Tab) -> None:
        if tab.is_stuck and not tab.is_gone:
            self.notes.append("The page was left while it showed a dialog, hung by that, and was closed.")
            self.give_up(tab)

    def _of_downloads(self, name: str, said: Mapping[str, Any]) -> None:
        if name == "downloadWillBegin":
            self._downloads[said["guid"]] = str(said["suggestedFilename"])
            self.notes.append(f"A download has begun: {quoted(str(said['suggestedFilename']))}")
        elif name == "downloadProgress" and said["state"] != "inProgress":
            file = said.get("filePath") or self._downloads.get(said["guid"], "")
            self._downloads.pop(said["guid"], None)
            ended = "is complete" if said["state"] == "completed" else "was not completed"
            self.notes.append(f"A download {ended}: {quoted(str(file))}")
