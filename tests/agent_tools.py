"""The agent's tools for tests: the real program at the end of real pipes, and the program that it asks beside it."""

import contextlib
import itertools
import json
import os
import queue
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

GUEST = Path(__file__).parent.parent / "guest"
ANSWER_S = 60.0

Replies = Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class Outcome:
    """What a call of a tool came to."""

    text: str
    is_error: bool
    images: list[str] = field(default_factory=list)


def laid_out(place: Path) -> Path:
    """A directory with the packages that the bundle has there, and nothing else."""
    place.mkdir()
    for package in ("boxkeep_tools", "boxkeep_desktop"):
        (place / package).symlink_to(GUEST / package)
    for package in ("h11", "wsproto"):
        found = find_spec(package)
        assert found is not None
        assert found.origin is not None
        (place / package).symlink_to(Path(found.origin).parent)
    return place


def command(place: Path, *flags: str) -> list[str]:
    """The command line of the tools that are laid out at a place."""
    return ["/usr/bin/python3", "-I", "-S", "-B", str(place / "boxkeep_tools" / "__main__.py"), *flags]


class Tools:
    """A running program of tools, by the system's Python without its site packages, as in a sandbox."""

    def __init__(self, place: Path, *flags: str, socket: Path | None = None) -> None:
        environment = {**os.environ, **({} if socket is None else {"BOXKEEP_AGENT_SOCKET": str(socket)})}
        self.process = subprocess.Popen(
            command(place, *flags),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        self.notes: list[dict[str, Any]] = []
        self._numbers = itertools.count(1)
        self._heard: queue.Queue[bytes] = queue.Queue()
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    def __enter__(self) -> "Tools":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.end()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(BrokenPipeError):
                stream.close()  # type: ignore[union-attr]

    def end(self) -> None:
        """Wait for its end, which comes with that of its input. May be repeated."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(ANSWER_S)
        self._listening.join()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._heard.put(line)
        self._heard.put(b"")

    def write(self, data: bytes) -> None:
        """Write bytes as they are."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def say(self, **message: Any) -> None:
        """Say a message of JSON-RPC."""
        self.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def hear(self, within_s: float = ANSWER_S) -> dict[str, Any]:
        """The next message; an empty one at the end."""
        line = self._heard.get(timeout=within_s)
        assert not line or line.endswith(b"\n"), line
        said: dict[str, Any] = json.loads(line or b"{}")
        return said

    def answer(self, own: object, within_s: float = ANSWER_S) -> dict[str, Any]:
        """The answer to a request; what else is heard before it goes to `notes`."""
        while True:
            said = self.hear(within_s)
            assert said, "it has ended: " + self.complaints()
            if said.get("id") == own and "method" not in said:
                return said
            self.notes.append(said)

    def complaints(self) -> str:
        """What it wrote on standard error; it has ended."""
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """What a request is answered, result or error and all."""
        own = next(self._numbers)
        self.say(id=own, method=method, params=params)
        return self.answer(own)

    def begin(self, name: str, arguments: dict[str, Any], **meta: Any) -> int:
        """Call a tool and do not wait."""
        own = next(self._numbers)
        self.say(id=own, method="tools/call", params={"name": name, "arguments": arguments, "_meta": meta})
        return own

    def outcome(self, own: int, within_s: float = ANSWER_S) -> Outcome:
        """What a call that was begun came to."""
        result = self.answer(own, within_s)["result"]
        parts = result["content"]
        texts = [part["text"] for part in parts if part["type"] == "text"]
        return Outcome("\n".join(texts), result["isError"], [one["data"] for one in parts if one["type"] == "image"])

    def call(self, name: str, **arguments: Any) -> Outcome:
        """What a tool's call came to, whatever it is."""
        return self.outcome(self.begin(name, arguments))

    def done(self, name: str, **arguments: Any) -> str:
        """What a call that goes well tells."""
        outcome = self.call(name, **arguments)
        assert not outcome.is_error, outcome.text
        return outcome.text

    def refused(self, name: str, **arguments: Any) -> str:
        """What a call that does not go well tells."""
        outcome = self.call(name, **arguments)
        assert outcome.is_error, outcome.text
        return outcome.text


class _Line(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Companion)
        question = json.loads(self.rfile.readline())
        self.server.asked.put(question)
        reply = self.server.replies(question)
        with contextlib.suppress(OSError):
            self.wfile.write(reply if isinstance(reply, bytes) else json.dumps(reply).encode() + b"\n")


class Companion(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Who answers the tools at a socket as `replies` has it; `asked` is what they asked."""

    daemon_threads = True
    request_queue_size = 64  # as many ask at once as may: more than are waiting are turned away

    def __init__(self, path: Path, replies: Replies) -> None:
        super().__init__(str(path), _Line)
        self.replies = replies
        self.asked: queue.Queue[dict[str, Any]] = queue.Queue()

    @classmethod
    @contextlib.contextmanager
    def serving(cls, path: Path, replies: Replies) -> Iterator["Companion"]:
        """One that serves for as long as this lasts."""
        with cls(path, replies) as server:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            yield server
            server.shutdown()
