"""One page of the browser as a tool has it in hand: calls to it that no dialog and no busy script holds up for ever."""

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from boxkeep_tools.faults import Gone, Interrupted, Silent, ToolFailed
from boxkeep_tools.protocol import Answer, Protocol, Refused
from boxkeep_tools.script import SCRIPT

_CALL_S: Final = 15.0
_BEGINS_S: Final = 0.4
_LOADS_S: Final = 15.0
_WORLD: Final = "boxkeep"
_FRAMES_MOST: Final = 20
_REF: Final = re.compile(r"(\d{1,9})\.(\d{1,9})")


@dataclass(frozen=True)
class Dialog:
    """A question that a page has put: `confirm` or `prompt`, with its words."""

    kind: str
    message: str


@dataclass(frozen=True)
class Frame:
    """A frame of a page: the session that it answers in, its own id, and the world of ours within its document."""

    session: str
    id: str
    world: int


@dataclass
class Tab:
    """A page, in the session that we have with it.

    `inner` are the sessions of frames that live in processes of their own: the session around each, and its frame's id.
    """

    protocol: Protocol
    target: str
    session: str
    title: str = ""
    url: str = ""
    dialog: Dialog | None = None
    chooser: int | None = None
    is_gone: bool = False
    is_loading: bool = False
    moves: int = 0
    dialogs: int = 0
    inner: dict[str, tuple[str, str]] = field(default_factory=dict)
    documents: list[Frame] = field(default_factory=list)

    async def call(self, method: str, session: str | None = None, within_s: float = _CALL_S, **params: Any) -> Any:
        """What a call to the page, or to the session of one of its frames, answers.

        Raises:
            Interrupted, Silent, Gone, Refused, Away, Held
        """
        return await self.answered(self.protocol.post(method, session or self.session, **params), within_s)

    async def answered(self, answer: Answer, within_s: float = _CALL_S) -> Any:
        """An answer once it is there; raises as `call`."""
        await self.protocol.until(lambda: answer.done() or self.dialog or self.is_gone, within_s)
        if answer.done():
            return answer.result()
        if self.is_gone:
            raise Gone("The page has been closed, or has crashed. Open one by browser_open.")
        raise Interrupted if self.dialog else Silent

    async def settle(self, moves: int) -> None:
        """Wait until what has begun since the page had moved `moves` times has come to rest, within limits."""
        await self.protocol.until(lambda: self.moves > moves or self.dialog or self.is_gone, _BEGINS_S)
        await self.protocol.until(lambda: not self.is_loading or self.dialog or self.is_gone, _LOADS_S)

    async def frames(self) -> list[Frame]:
        """The frames of the page, its own document first, each with a world of ours; those that go meanwhile not.

        Raises:
            Gone: the page itself goes.
        """
        own = await self._frames_in(self.session)
        if not own:
            raise Gone("The page has been left.")
        for session in list(self.inner):
            own += await self._frames_in(session)
        return own[:_FRAMES_MOST]

    async def _frames_in(self, session: str) -> list[Frame]:
        found: list[Frame] = []
        with contextlib.suppress(Gone, Refused):
            tree = await self.call("Page.getFrameTree", session)
            for name in _names(tree["frameTree"])[:_FRAMES_MOST]:
                made = await self.call("Page.createIsolatedWorld", session, frameId=name, worldName=_WORLD)
                found.append(Frame(session, name, int(made["executionContextId"])))
        return found

    def number(self, frame: Frame) -> int:
        """By which number refs name this document; another document in the same frame gets another."""
        if frame not in self.documents:
            self.documents.append(frame)
        return self.documents.index(frame) + 1

    def found(self, ref: str) -> tuple[Frame, int]:
        """The frame and the number within it that a ref names.

        Raises:
            ToolFailed: it is none that was given out.
        """
        matched = _REF.fullmatch(ref.strip().strip("[]"))
        if matched is None or not 0 < int(matched[1]) <= len(self.documents):
            raise ToolFailed(f"There is no element {ref[:40]!r}. Refs look like 1.12; browser_read shows them.")
        return self.documents[int(matched[1]) - 1], int(matched[2])

    async def run(self, frame: Frame, what: str, *arguments: Any, within_s: float = _CALL_S) -> Any:
        """What one of our functions answers within a frame: see `script`. Raises as `call`."""
        return (await self._ran(frame, True, within_s, what, *arguments)).get("value")

    async def handle(self, frame: Frame, at: int) -> str | None:
        """What the protocol calls the element of a number; None if it is not there any more. Raises as `call`."""
        found = await self._ran(frame, False, _CALL_S, "element", at)
        return found.get("objectId")

    async def _ran(self, frame: Frame, by_value: bool, within_s: float, *arguments: Any) -> dict[str, Any]:
        answer = await self.call(
            "Runtime.callFunctionOn",
            frame.session,
            within_s,
            functionDeclaration=SCRIPT,
            executionContextId=frame.world,
            arguments=[{"value": one} for one in arguments],
            returnByValue=by_value,
        )
        if "exceptionDetails" in answer:
            raise ToolFailed("The page is in a state in which this cannot be done.")
        result: dict[str, Any] = answer["result"]
        return result

    async def offset(self, frame: Frame) -> tuple[float, float]:
        """Where on the page a frame begins, in pixels."""
        x, y = 0.0, 0.0
        session, name = frame.session, frame.id
        while (session, name) != (self.session, self.target):
            around, root = self.inner.get(session, (self.session, self.target))
            where = around if name == root else session
            owner = await self.call("DOM.getFrameOwner", where, frameId=name)
            box = await self.call("DOM.getBoxModel", where, backendNodeId=owner["backendNodeId"])
            x, y = x + box["model"]["content"][0], y + box["model"]["content"][1]
            session, name = where, self.inner[where][1] if where in self.inner else self.target
        return x, y


def _names(tree: Mapping[str, Any]) -> list[str]:
    """The ids of the frames of a tree, from its root."""
    found, waiting = [], [tree]
    while waiting:
        here = waiting.pop(0)
        found.append(str(here["frame"]["id"]))
        waiting.extend(here.get("childFrames", []))
    return found
