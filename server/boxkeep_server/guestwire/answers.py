"""The records within a guest's answers, parsed by shape: a guest that answers otherwise has broken the wire."""

import base64
import re
from dataclasses import dataclass
from typing import Any, Literal, cast

from boxkeep_server.guestwire.errors import GuestProtocolError

Outcome = Literal["exited", "signalled", "timed_out", "cancelled", "out_of_memory"]
EntryType = Literal["file", "directory", "symlink", "other"]

_OUTCOMES = frozenset({"exited", "signalled", "timed_out", "cancelled", "out_of_memory"})
_TYPES = frozenset({"file", "directory", "symlink", "other"})
_SURROGATE = re.compile("[\ud800-\udfff]")
_MOST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Process:
    """A process as its guest tells it. Times are epoch ms, text that is no UTF-8 shows U+FFFD."""

    id: str
    state: Literal["running", "finished"]
    pid: int
    command: str
    args: tuple[str, ...] | None
    shell: bool
    cwd: str
    user: str
    background: bool
    pty: bool
    started_at: int
    ended_at: int | None
    duration_ms: int | None
    timeout_ms: int | None
    outcome: Outcome | None
    exit_code: int | None
    signal: int | None
    reason: str | None
    timed_out: bool
    stdout_bytes: int
    stderr_bytes: int
    dropped_bytes: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or directory as its guest tells it. Names are bytes; `mode` is without the type; times are epoch ms."""

    name: bytes
    path: bytes
    type: EntryType
    size: int
    mode: int
    modified_at: int
    uid: int
    gid: int
    target: bytes | None


class _Shape:
    """The fields of one object, each taken with its type."""

    def __init__(self, found: object, what: str) -> None:
        if not isinstance(found, dict):
            raise GuestProtocolError(f"{what} is no object")
        self._found = found
        self._what = what

    def wrong(self, name: str) -> GuestProtocolError:
        return GuestProtocolError(f"{name} of {self._what} is not as the wire says")

    def text(self, name: str) -> str:
        value = self._found.get(name)
        if not isinstance(value, str):
            raise self.wrong(name)
        return _clean(value)

    def number(self, name: str, least: int = 0, most: int = _MOST) -> int:
        value = self._found.get(name)
        if type(value) is not int or not least <= value <= most:
            raise self.wrong(name)
        return value

    def maybe_number(self, name: str, least: int = 0, most: int = _MOST) -> int | None:
        return None if self._found.get(name) is None else self.number(name, least, most)

    def flag(self, name: str) -> bool:
        value = self._found.get(name)
        if not isinstance(value, bool):
            raise self.wrong(name)
        return value

    def texts(self, name: str) -> tuple[str, ...] | None:
        value = self._found.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(name)
        return tuple(map(_clean, value))

    def one_of(self, name: str, allowed: frozenset[str]) -> str:
        value = self._found.get(name)
        if not isinstance(value, str) or value not in allowed:
            raise self.wrong(name)
        return value

    def octets(self, name: str) -> bytes | None:
        """A name: text, or base64 under its own field."""
        value = self._found.get(name)
        coded = self._found.get(name + "Base64")
        if value is None and coded is None:
            return None
        try:
            octets = value.encode("utf-8") if isinstance(value, str) else base64.b64decode(coded or "", validate=True)
        except (ValueError, TypeError):
            raise self.wrong(name) from None
        if b"\0" in octets:
            raise self.wrong(name)
        return octets


def _clean(text: str) -> str:
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def process_of(answer: dict[str, Any], expected_id: str | None = None) -> Process:
    """The `process` in an answer.

    Raises:
        GuestProtocolError: there is none, it is not as the wire says, or it is another one than `expected_id`.
    """
    return parse_process(answer.get("process"), expected_id)


def parse_process(found: object, expected_id: str | None = None) -> Process:
    """A process record; raises as `process_of`."""
    shape = _Shape(found, "a process")
    finished = shape.one_of("state", frozenset({"running", "finished"})) == "finished"
    outcome = shape.one_of("outcome", _OUTCOMES) if finished else None
    process = Process(
        id=shape.text("id"),
        state="finished" if finished else "running",
        pid=shape.number("pid"),
        command=shape.text("command"),
        args=shape.texts("args"),
        shell=shape.flag("shell"),
        cwd=shape.text("cwd"),
        user=shape.text("user"),
        background=shape.flag("background"),
        pty=shape.flag("pty"),
        started_at=shape.number("startedAt"),
        ended_at=shape.number("endedAt") if finished else None,
        duration_ms=shape.number("durationMs") if finished else None,
        timeout_ms=shape.maybe_number("timeoutMs"),
        outcome=cast("Outcome | None", outcome),
        exit_code=shape.maybe_number("exitCode", 0, 255) if finished else None,
        signal=shape.maybe_number("signal", 1, 127) if finished else None,
        reason=None if found is None or found.get("reason") is None else shape.text("reason"),  # type: ignore[attr-defined]
        timed_out=shape.flag("timedOut"),
        stdout_bytes=shape.number("stdoutBytes"),
        stderr_bytes=shape.number("stderrBytes"),
        dropped_bytes=shape.number("droppedBytes"),
    )
    if not re.fullmatch("[0-9a-z]{32}", process.id) or (expected_id is not None and process.id != expected_id):
        raise GuestProtocolError("the guest answers for another process")
    return process


def processes_of(answer: dict[str, Any]) -> tuple[list[Process], bool]:
    """The page of a `process.list` and whether there is more. Raises GuestProtocolError."""
    found, more = answer.get("processes"), answer.get("more")
    if not isinstance(found, list) or not isinstance(more, bool):
        raise GuestProtocolError("the guest's list is none")
    return [parse_process(one) for one in found], more


def entry_of(answer: dict[str, Any]) -> Entry:
    """The `entry` in an answer. Raises GuestProtocolError."""
    return parse_entry(answer.get("entry"))


def parse_entry(found: object) -> Entry:
    """A file's entry. Raises GuestProtocolError."""
    shape = _Shape(found, "an entry")
    name, path = shape.octets("name"), shape.octets("path")
    if not name or not path or not path.startswith(b"/"):
        raise shape.wrong("path")
    return Entry(
        name=name,
        path=path,
        type=cast("EntryType", shape.one_of("type", _TYPES)),
        size=shape.number("size"),
        mode=shape.number("mode", 0, 0o7777),
        modified_at=shape.number("modifiedAt", -_MOST),
        uid=shape.number("uid", 0, 2**32 - 1),
        gid=shape.number("gid", 0, 2**32 - 1),
        target=shape.octets("target"),
    )


def entries_of(message: dict[str, Any]) -> list[Entry]:
    """The entries in a JSON frame of `file.list`. Raises GuestProtocolError."""
    found = message.get("entries")
    if not isinstance(found, list):
        raise GuestProtocolError("the guest's entries are no list")
    return [parse_entry(one) for one in found]


def count_of(answer: dict[str, Any], name: str, most: int = _MOST) -> int:
    """A whole number from 0 to `most` in an answer, such as `offset` or `stdoutTail`. Raises GuestProtocolError."""
    return _Shape(answer, "an answer").number(name, 0, most)
