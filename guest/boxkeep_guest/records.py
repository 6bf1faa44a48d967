"""What is known of a process: the wire's record of it, and its copy on disk, which outlives the guest's memory."""

import json
import os
from typing import Any, NamedTuple

from boxkeep_guest.output import Output, read_regular
from boxkeep_guest.ring import Layout

TEXT_MOST = 4096
ARGS_MOST = 16 * 1024
RECORD_MOST = 512 * 1024
FILES = ("stdout", "stderr", "record.json", "record.new")


class Terminal(NamedTuple):
    """The size of a terminal."""

    rows: int
    cols: int


class Spec(NamedTuple):
    """What a call asked to be started. `timeout_ms` of None means no end; a `companion` is no work of the sandbox's."""

    id: str
    command: str
    args: list[str] | None
    cwd: str
    env: dict[str, str]
    user: str | None
    stdin: bytes | None
    keep_stdin: bool
    timeout_ms: int | None
    background: bool
    pty: Terminal | None
    companion: bool = False


class Ending(NamedTuple):
    """How a process ended."""

    outcome: str
    exit_code: int | None
    signal: int | None
    reason: str | None


def shortened(text: str, most: int) -> str:
    """The text itself, or its beginning and an ellipsis."""
    return text if len(text) <= most else text[: most - 1] + "…"


def short_args(args: list[str] | None) -> list[str] | None:
    """The arguments as records show them: those that fit, shortened."""
    if args is None:
        return None
    shown: list[str] = []
    left = ARGS_MOST
    for arg in args:
        if left <= 0:
            return [*shown, "…"]
        shown.append(shortened(arg, min(TEXT_MOST, left)))
        left -= len(shown[-1]) + 16
    return shown


def first_record(spec: Spec, pid: int, user: str, started_at: int) -> dict[str, Any]:
    """The record of a process that has just been started; times in epoch ms."""
    return {
        "id": spec.id,
        "state": "running",
        "pid": pid,
        "command": shortened(spec.command, TEXT_MOST),
        "args": short_args(spec.args),
        "shell": spec.args is None,
        "cwd": spec.cwd,
        "user": user,
        "background": spec.background,
        "pty": spec.pty is not None,
        "startedAt": started_at,
        "endedAt": None,
        "durationMs": None,
        "timeoutMs": spec.timeout_ms,
        "outcome": None,
        "exitCode": None,
        "signal": None,
        "reason": None,
        "timedOut": False,
        "stdoutBytes": 0,
        "stderrBytes": 0,
        "droppedBytes": 0,
    }


def with_outputs(record: dict[str, Any], outputs: dict[str, Output]) -> dict[str, Any]:
    """The record with the counts of now."""
    lost = [output.layout.dropped for output in outputs.values()]
    return {
        **record,
        "stdoutBytes": outputs["stdout"].total,
        "stderrBytes": outputs["stderr"].total,
        "droppedBytes": sum(end - begin for begin, end in filter(None, lost)),
    }


def ended(record: dict[str, Any], ending: Ending, ended_at: int, duration_ms: int) -> dict[str, Any]:
    """The record of a process that has finished."""
    return {
        **record,
        "state": "finished",
        "endedAt": ended_at,
        "durationMs": duration_ms,
        "outcome": ending.outcome,
        "exitCode": ending.exit_code,
        "signal": ending.signal,
        "reason": ending.reason,
        "timedOut": ending.outcome == "timed_out",
    }


class Finished:
    """A process that has finished: its record, kept small, and where its output lies."""

    finished = True

    def __init__(self, directory: str, text: bytes) -> None:
        self._directory = directory
        self._text = text

    def record(self) -> dict[str, Any]:
        """The wire's record."""
        record: dict[str, Any] = json.loads(self._text)
        record.pop("layout", None)
        return record

    @property
    def outputs(self) -> dict[str, Output]:
        """The streams, by name, for reading."""
        layout = json.loads(self._text).get("layout", {})
        return {
            name: Output(f"{self._directory}/{name}", Layout.ended(*layout.get(name, (0, None, 0))))
            for name in ("stdout", "stderr")
        }


def record_text(record: dict[str, Any], outputs: dict[str, Output]) -> bytes:
    """What is written to disk: the record and the layout of its streams."""
    layout = {name: (output.layout.total, output.layout.head, output.layout.ring) for name, output in outputs.items()}
    return json.dumps({**record, "layout": layout}, separators=(",", ":")).encode("ascii")


def write_record(directory: str, text: bytes, first: bool) -> bool:
    """Write a record to its directory, replacing the one before; false where the disk does not take it."""
    try:
        if first and not os.path.isdir(directory):  # noqa: PTH112 - pathlib costs start-up
            os.mkdir(directory, 0o700)  # noqa: PTH102
        name = "record.json" if first else "record.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        file = os.open(f"{directory}/{name}", flags, 0o600)
        try:
            os.write(file, text)
        finally:
            os.close(file)
        if not first:
            os.replace(f"{directory}/record.new", f"{directory}/record.json")  # noqa: PTH105
    except OSError:
        return False
    return True


def read_record(directory: str) -> Finished | None:
    """The finished process whose log is `directory`; one that a former guest left running has ended with that guest."""
    try:
        text = read_regular(f"{directory}/record.json", 0, RECORD_MOST)
        record = json.loads(text)
        if not isinstance(record, dict) or record.get("id") != directory.rpartition("/")[2]:
            return None
        if record["state"] != "finished":
            record = _abandoned(directory, record)
            text = json.dumps(record).encode("ascii")
        if not isinstance(record["startedAt"], int):
            return None
        finished = Finished(directory, text)
        finished.outputs  # noqa: B018 - a layout that is none fails here
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return finished


def _abandoned(directory: str, record: dict[str, Any]) -> dict[str, Any]:
    sizes = {name: _size(f"{directory}/{name}") for name in ("stdout", "stderr")}
    ending = Ending("signalled", 137, 9, "The sandbox was started anew while it ran")
    record = ended(record, ending, record["startedAt"], 0)
    counts = {f"{name}Bytes": size for name, size in sizes.items()}
    return {**record, **counts, "layout": {name: (size, None, 0) for name, size in sizes.items()}}


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


def remove_log(directory: str) -> None:
    """Remove a process's log; what is not ours in it stays."""
    for name in FILES:
        try:
            os.unlink(f"{directory}/{name}")  # noqa: PTH108 - pathlib costs start-up
        except OSError:
            continue
    try:
        os.rmdir(directory)  # noqa: PTH106
    except OSError:
        return
