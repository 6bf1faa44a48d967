"""What the API has acknowledged to the clients of a chaos run, to be held against what it says when all is quiet."""

import threading
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Ledger:
    """Facts that were answered with a 200; may be written from many threads."""

    created: dict[str, str] = field(default_factory=dict)
    """Sandbox id by the name it was made with."""
    finished: dict[str, tuple[str, str, int | None]] = field(default_factory=dict)
    """Sandbox, outcome and exit code by the id of a command."""
    taken: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Sandbox, and how many of its commands had been acknowledged before, by the id of a checkpoint."""
    went_back: set[str] = field(default_factory=set)
    """Sandboxes that were to go back to a checkpoint: what they did after it may be gone."""
    deleted: set[str] = field(default_factory=set)
    strange: list[str] = field(default_factory=list)
    """Answers that no client should ever get."""
    struck: set[str] = field(default_factory=set)
    """Sandboxes whose machine we killed ourselves."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ran(self, sandbox: str, answer: dict[str, Any]) -> None:
        """A command's answer."""
        with self.lock:
            self.finished[answer["processId"]] = (sandbox, answer["outcome"], answer["exitCode"])

    def lines(self, sandbox: str) -> int:
        """How many commands of a sandbox have been acknowledged, each of which had written a line."""
        with self.lock:
            return sum(box == sandbox and outcome == "exited" for box, outcome, _ in self.finished.values())

    def odd(self, words: str) -> None:
        """Something that must not be."""
        with self.lock:
            self.strange.append(words)
