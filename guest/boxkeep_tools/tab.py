"""One page of the browser as a tool has it in hand: calls to it that no dialog and no busy script holds up for ever."""

import asyncio
import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from boxkeep_tools.faults import Gone, Interrupted, Silent, ToolFailed
from boxkeep_tools.protocol import Answer, Protocol, Refused

_SCRIPT: Final = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
_CALL_S: Final = 15.0
_BEGINS_S: Final = 0.4
_LOADS_S: Final = 15.0
_MOVES_MOST: Final = 8
_WORLD: Final = "boxkeep"
EMPTY: Final = ("", "about:blank")
_FRAMES_MOST: Final = 20
_FRAME_S: Final = 5.0
_CAME_MOST: Final = 20
_CLOSED: Final = "The page has been closed, or has crashed. Open one by browser_open."
_REF: Final = re.compile(r"(\d{1,9})\.(\d{1,9})")


@dataclass(frozen=True)
class Dialog:
    """A question that a page has put: `confirm` or `prompt`, with its words."""

    kind: str
    message: str


@dataclass(frozen=True)
class Frame:
    """A document in a frame of a page: the session that it answers in, the frame's id, the world of ours within, and
    its own id, since another process may give another document's world the same number."""

    session: str
    id: str
    world: int
    document: str


@dataclass
class Tab:
    """A page, in the session that we have with it.

    `inner` are the sessions of frames that live in processes of their own: the session around each, and its frame's id.
    `moves` counts how often it has begun to load, and `came` are the documents that have come last, each with whether
    none was on its way by then that is to come over it; both are told once it is `enabled`. It `is_stuck` while it has
    a dialog that nobody can answer. What was done with it last `opens` another page, which is to load something.
    """

    protocol: Protocol
    target: str
    session: str
    enabled: Answer
    title: str = ""
    url: str = ""
    dialog: Dialog | None = None
    chooser: int | None = None
    is_gone: bool = False
    is_stuck: bool = False
    is_loading: bool = False
    opens: bool = False
    moves: int = 0
    awaited: str = ""
    came: dict[str, bool] = field(default_factory=dict)
    dialogs: int = 0
    inner: dict[str, tuple[str, str]] = field(default_factory=dict)
    documents: list[Frame] = field(default_factory=list)

    def begun(self, document: str) -> None:
        """Note that a document is on its way. Of several the last one wins, unless an earlier one was all but there."""
        self.awaited = document

    def shown(self, document: str) -> None:
        """Note that a document has come."""
        self.came[document] = self.awaited in ("", document)
        while len(self.came) > _CAME_MOST:
            del self.came[next(iter(self.came))]

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
            raise self._gone()
        raise Interrupted if self.dialog else Silent

    def _gone(self) -> Gone:
        return Gone(_CLOSED) if self.is_gone else Gone()

    async def settle(self, moves: int) -> None:
        """Wait until what has begun since the page had moved `moves` times has come to rest, within limits."""
        await self.protocol.until(lambda: self.moves > moves or self.dialog or self.is_gone, _BEGINS_S)
        await self.rest()

    async def begins(self, within_s: float) -> None:
        """Wait until a new page that is to load something has begun to and come to rest, within limits."""
        await self.protocol.until(lambda: self.moves or self.url not in EMPTY or self.is_gone, within_s)
        await self.rest()

    async def rest(self) -> None:
        """Wait until it has loaded, within limits; not for one that goes from one address to the next all the time."""
        far = self.moves + _MOVES_MOST
        await self.protocol.until(
            lambda: not self.is_loading or self.dialog or self.is_gone or self.moves > far, _LOADS_S
        )

    async def frames(self) -> list[Frame]:
        """The frames of the page, its own document first, each with a world of ours; those that go meanwhile not, nor
        those of processes that do not answer.

        Raises:
            Gone: the page itself goes.
        """
        own = await self._frames_in(self.session, _CALL_S)
        if not own:
            raise self._gone()
        inner = await asyncio.gather(*(self._inner_frames(session) for session in list(self.inner)[:_FRAMES_MOST]))
        return [*own, *(frame for frames in inner for frame in frames)][:_FRAMES_MOST]

    async def _inner_frames(self, session: str) -> list[Frame]:
        with contextlib.suppress(Silent):
            return await self._frames_in(session, _FRAME_S)
        return []

    async def _frames_in(self, session: str, within_s: float) -> list[Frame]:
        found: list[Frame] = []
        with contextlib.suppress(Gone, Refused):
            tree = await self.call("Page.getFrameTree", session, within_s)
            for name, document in _named(tree["frameTree"])[:_FRAMES_MOST]:
                with contextlib.suppress(Gone, Refused):
                    found.append(Frame(session, name, await self._world(session, name, within_s), document))
        return found

    async def _world(self, session: str, frame: str, within_s: float) -> int:
        made = await self.call("Page.createIsolatedWorld", session, within_s, frameId=frame, worldName=_WORLD)
        return int(made["executionContextId"])

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
        ran = await self._ran(frame.session, frame.world, within_s, True, what, self.number(frame), *arguments)
        return ran.get("value")

    async def handle(self, frame: Frame, at: int) -> str | None:
        """What the protocol calls the element of a number; None if it is not there any more. Raises as `call`."""
        found = await self._ran(frame.session, frame.world, _CALL_S, False, "element", self.number(frame), at)
        return found.get("objectId")

    async def here(self, within_s: float) -> tuple[str, str]:
        """Title and URL of what the page shows now. Raises as `call`."""
        world = await self._world(self.session, self.target, within_s)
        found = (await self._ran(self.session, world, within_s, True, "here", 0))["value"]
        return found["title"], found["url"]

    async def _ran(
        self, session: str, world: int, within_s: float, by_value: bool, what: str, *arguments: Any
    ) -> dict[str, Any]:
        answer = await self.call(
            "Runtime.callFunctionOn",
            session,
            within_s,
            functionDeclaration=_SCRIPT,
            executionContextId=world,
            arguments=[{"value": one} for one in (what, *arguments)],
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


def _named(tree: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The ids of the frames of a tree, from its root, and of their documents."""
    found, waiting = [], [tree]
    while waiting:
        here = waiting.pop(0)
        found.append((str(here["frame"]["id"]), str(here["frame"]["loaderId"])))
        waiting.extend(here.get("childFrames", []))
    return found
