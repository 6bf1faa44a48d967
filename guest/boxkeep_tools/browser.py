"""The browser as it is while a connection to it lasts: its pages, which of them is in front, and what happens in it."""

from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from boxkeep_tools.faults import Gone, ToolFailed
from boxkeep_tools.protocol import Protocol
from boxkeep_tools.tab import Dialog, Tab
from boxkeep_tools.words import quoted

_BEGIN_S: Final = 20.0
_TABS_MOST: Final = 30
_NOTES_MOST: Final = 12
_DIALOGS_MOST: Final = 8
"""So many in the time of one call, and the page's scripts are stopped."""
_PAGES: Final = [{"type": "page"}]
_FRAMES: Final = [{"type": "iframe"}]


class Browser:
    """A connected browser. Alerts and questions before leaving are answered at once; others wait for the agent."""

    protocol: Protocol

    def __init__(self) -> None:
        self.notes: deque[str] = deque(maxlen=_NOTES_MOST)
        self.tabs: list[Tab] = []
        self._front: Tab | None = None
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
        """Let go of it."""
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

    async def show(self, tab: Tab) -> None:
        """Have a page in front."""
        self._front = tab
        await tab.call("Page.bringToFront")

    async def new(self) -> Tab:
        """An empty page, in front."""
        before = len(self.tabs)
        self.protocol.post("Target.createTarget", url="about:blank")
        if not await self.protocol.until(lambda: len(self.tabs) > before, _BEGIN_S):
            raise ToolFailed("The browser opens no page.")
        return self.tabs[-1]

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
        self._front = next((tab for name in first for tab in self.tabs if tab.target == name), None)
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
        elif info["type"] == "page" and len(self.tabs) < _TABS_MOST:
            tab = Tab(self.protocol, info["targetId"], session, info["title"], info["url"])
            self._opened(tab)
        else:
            self.protocol.post("Target.detachFromTarget", sessionId=session)
            return
        self.protocol.post("Page.enable", session)
        self.protocol.post("Page.setInterceptFileChooserDialog", session, enabled=True)
        self.protocol.post(
            "Target.setAutoAttach", session, autoAttach=True, waitForDebuggerOnStart=False, flatten=True, filter=_FRAMES
        )

    def _opened(self, tab: Tab) -> None:
        """The newest page is in front, as the browser itself has it."""
        self.tabs.append(tab)
        if self._begun:
            self._front = tab
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
            self._front = self.tabs[-1] if self.tabs else None
            self.notes.append("The page that was in front has been closed.")

    def _of_page(self, tab: Tab, is_whole: bool, name: str, said: Mapping[str, Any]) -> None:
        match name:
            case "frameStartedLoading" if is_whole and said["frameId"] == tab.target:
                tab.moves += 1
                tab.is_loading = True
            case "frameStoppedLoading" if is_whole and said["frameId"] == tab.target:
                tab.is_loading = False
            case "javascriptDialogOpening":
                self._asked(tab, str(said["type"]), str(said["message"]))
            case "javascriptDialogClosed":
                tab.dialog = None
            case "fileChooserOpened":
                tab.chooser = said.get("backendNodeId")
                self.notes.append("The page asks for a file: give it one by browser_upload.")
            case "targetCrashed":
                tab.is_gone = True
                self.notes.append("The page has crashed.")

    def _asked(self, tab: Tab, kind: str, message: str) -> None:
        tab.dialogs += 1
        if tab.dialogs > _DIALOGS_MOST:
            self._stop(tab)
        elif kind in ("confirm", "prompt"):
            tab.dialog = Dialog(kind, message)
        elif kind == "beforeunload":
            self.notes.append("The page asked whether it may be left. It was.")
            self.protocol.post("Page.handleJavaScriptDialog", tab.session, accept=True)
        else:
            self.notes.append(f"The page showed a message, which was closed: {quoted(message)}")
            self.protocol.post("Page.handleJavaScriptDialog", tab.session, accept=True)

    def leave_dialog(self, tab: Tab) -> None:
        """Close the dialog of a page that is to be left, and end the script that has opened it."""
        self.protocol.post("Runtime.terminateExecution", tab.session)
        self.protocol.post("Page.handleJavaScriptDialog", tab.session, accept=False)

    def _stop(self, tab: Tab) -> None:
        if tab.dialogs == _DIALOGS_MOST + 1:
            self.notes.append("The page showed one dialog after the other: its script was stopped.")
        self.leave_dialog(tab)

    def _of_downloads(self, name: str, said: Mapping[str, Any]) -> None:
        if name == "downloadWillBegin":
            self._downloads[said["guid"]] = str(said["suggestedFilename"])
            self.notes.append(f"A download has begun: {quoted(str(said['suggestedFilename']))}")
        elif name == "downloadProgress" and said["state"] != "inProgress":
            file = said.get("filePath") or self._downloads.get(said["guid"], "")
            self._downloads.pop(said["guid"], None)
            ended = "is complete" if said["state"] == "completed" else "was not completed"
            self.notes.append(f"A download {ended}: {quoted(str(file))}")
