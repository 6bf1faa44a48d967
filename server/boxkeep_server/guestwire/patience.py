"""How long each operation may take to answer and to go on, and which may be asked twice; pure."""

from typing import Any

ANSWER_SECONDS = 30.0
START_SECONDS = 120.0
"""For a process to begin: hundreds may be asked for at once, of a machine with half a processor."""
IDLE_SECONDS = 60.0
WATCH_IDLE_SECONDS = 30.0
GRACE_SECONDS = 30.0
LAST_ANSWER_SECONDS = 300.0
"""For what follows an upload: making gigabytes durable takes its time."""

_ONCE = frozenset({"process.signal", "file.move", "file.remove", "file.mkdir"})


def answer_seconds(request: dict[str, Any]) -> float | None:
    """Seconds that the first answer may take; None where a command without an end is waited for."""
    operation = request.get("op")
    if operation == "process.wait" or (operation == "process.start" and request.get("answer") == "exit"):
        limit = request.get("timeoutMs")
        return None if limit is None else limit / 1000 + GRACE_SECONDS
    if operation == "process.start":
        return START_SECONDS
    if operation in ("file.remove", "file.move"):
        return 10 * ANSWER_SECONDS
    return ANSWER_SECONDS


def idle_seconds(request: dict[str, Any]) -> float | None:
    """Seconds that may pass between frames; None where a quiet command is followed."""
    operation = request.get("op")
    if operation == "watch":
        return WATCH_IDLE_SECONDS
    if operation in ("process.follow", "process.start", "process.attach", "port.dial", "port.accept"):
        return None
    if operation == "process.output" and request.get("follow"):
        return None
    return IDLE_SECONDS


def repeatable(request: dict[str, Any]) -> bool:
    """Whether asking again is harmless when a kept connection ended before any answer came.

    Starts are known by their id, and an upload has done nothing before it was told to go on.
    """
    return request.get("op") not in _ONCE
