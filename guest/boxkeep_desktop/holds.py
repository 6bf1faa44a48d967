"""Who drives the browser, and what the protocol's clients may do meanwhile; pure."""

import json
from typing import Any, Final, Literal

Mode = Literal["ai", "shared", "human"]
MODES: Final[tuple[Mode, ...]] = ("ai", "shared", "human")
"""`ai`: who speaks the protocol drives. `shared`: a person drives, and they may watch. `human`: nor that."""

BUSY: Final = "A person is in control of the browser"
"""What whoever is refused for that reason is told."""
_REFUSED: Final = -32001
_WATCHING: Final = frozenset(
    {
        "Accessibility.enable",
        "Accessibility.getFullAXTree",
        "Browser.getVersion",
        "Browser.getWindowForTarget",
        "DOM.enable",
        "DOM.getDocument",
        "DOMSnapshot.captureSnapshot",
        "Log.enable",
        "Network.enable",
        "Page.captureScreenshot",
        "Page.enable",
        "Page.getFrameTree",
        "Page.getLayoutMetrics",
        "Page.getNavigationHistory",
        "Page.screencastFrameAck",
        "Page.setLifecycleEventsEnabled",
        "Page.startScreencast",
        "Page.stopScreencast",
        "Performance.enable",
        "Performance.getMetrics",
        "Runtime.enable",
        "Runtime.runIfWaitingForDebugger",
        "Target.attachToTarget",
        "Target.detachFromTarget",
        "Target.getTargetInfo",
        "Target.getTargets",
        "Target.setAutoAttach",
        "Target.setDiscoverTargets",
    }
)


def answer_instead(mode: Mode, message: str | bytes) -> str | None:
    """The refusal of a client's message that may not be passed on in this mode; None for one that may.

    What cannot be read as a call is passed on where everything is, and refused elsewhere.
    """
    if mode == "ai":
        return None
    call = _read(message)
    if mode == "shared" and call.get("method") in _WATCHING:
        return None
    refusal: dict[str, Any] = {"id": call.get("id"), "error": {"code": _REFUSED, "message": BUSY}}
    if "sessionId" in call:
        refusal["sessionId"] = call["sessionId"]
    return json.dumps(refusal)


def _read(message: str | bytes) -> dict[str, Any]:
    try:
        call = json.loads(message)
    except (ValueError, RecursionError):
        return {}
    return call if isinstance(call, dict) else {}
