"""What a session's events tell of the work in it, in words of ours; pure but for what it remembers to tell once."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

TEXT_MOST: Final = 8000
FIELD_MOST: Final = 2000
TITLE_MOST: Final = 200
EVENTS_MOST: Final = 2000
"""Of one task: what comes after them is not told but for its end."""
MORE: Final = "…"

Told = dict[str, Any]


class Story:
    """The story of one session from now on."""

    def __init__(self, session: str) -> None:
        self._session = session
        self._prompts: set[str] = set()
        self._states: dict[str, str] = {}
        self._left = EVENTS_MOST

    def told(self, event: Mapping[str, Any]) -> Iterator[Told]:
        """What is to be told of an event, if it is of this session and not told yet."""
        about = event.get("properties")
        if not isinstance(about, dict) or about.get("sessionID") != self._session:
            return
        for told in self._of(event.get("type"), about):
            if self._left > 0:
                self._left -= 1
                yield told

    def _of(self, kind: Any, about: dict[str, Any]) -> Iterator[Told]:
        match kind:
            case "message.updated":
                info = _dict(about.get("info"))
                if info.get("role") == "user":
                    self._prompts.add(str(info.get("id")))
            case "message.part.updated":
                yield from self._of_part(_dict(about.get("part")))
            case "session.status":
                status = _dict(about.get("status"))
                if status.get("type") == "retry":
                    yield {"kind": "retry", "text": cut(status.get("message"), FIELD_MOST)}

    def _of_part(self, part: dict[str, Any]) -> Iterator[Told]:
        if part.get("messageID") in self._prompts:
            return
        name = str(part.get("id"))
        match part.get("type"):
            case "text" if "end" in _dict(part.get("time")) and part.get("text"):
                yield from self._once(name, "text", {"kind": "text", "text": cut(part.get("text"), TEXT_MOST)})
            case "tool":
                state = _dict(part.get("state"))
                status = str(state.get("status"))
                if status != "pending":
                    yield from self._once(name, status, {"kind": "tool", **_tool(part, state, status)})

    def _once(self, name: str, state: str, told: Told) -> Iterator[Told]:
        if self._states.get(name) != state:
            self._states[name] = state
            yield told


def _tool(part: Mapping[str, Any], state: Mapping[str, Any], status: str) -> Told:
    told: Told = {"tool": cut(part.get("tool"), TITLE_MOST), "state": status, "call": cut(part.get("callID"), 100)}
    if status == "running":
        return {**told, "input": cut(json.dumps(state.get("input"), ensure_ascii=False), FIELD_MOST)}
    output = state.get("error") if status == "error" else state.get("output")
    return {**told, "title": cut(state.get("title"), TITLE_MOST), "output": cut(output, FIELD_MOST)}


def cut(text: Any, most: int) -> str:
    """Text of at most so many bytes within JSON, which ends in a sign where there was more."""
    whole = text if isinstance(text, str) else ""
    kept = whole[:most]
    while (over := len(json.dumps(kept, ensure_ascii=False).encode("utf-8", "replace")) - most) > 0:
        kept = kept[: -max(1, over // 6)]
    return kept if kept == whole else kept + MORE


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
