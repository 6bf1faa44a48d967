"""A model of the lifecycle of sandboxes, as plain data: what a client may expect after each of its wishes."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from signal import SIGKILL
from typing import Any

from boxkeep_server.model.statuses import STEPS, Status

CONCURRENT = 5
PAUSED = 3
STORED_BYTES = 70 << 20
MAX_DURATION_MS = 3_600_000
FOLDER = "artifacts/"
KEEPS = {"runc": "files", "runsc": "memory"}


class Phase(StrEnum):
    """How far a client knows a sandbox to be."""

    COMING = "coming"
    READY = "ready"
    PAUSING = "pausing"
    PAUSED = "paused"
    OVER = "over"


SHOWN: Mapping[Phase, frozenset[str]] = {
    Phase.COMING: frozenset({"queued", "assigning", "ready", "active"}),
    Phase.READY: frozenset({"ready", "active"}),
    Phase.PAUSING: frozenset({"pausing", "paused"}),
    Phase.PAUSED: frozenset({"paused"}),
    Phase.OVER: frozenset({"ended"}),
}
"""What a read may show of a sandbox in each phase."""


@dataclass
class Inside:
    """What is in a sandbox: its files below `/workspace`, and in memory the number that a process has counted to, None
    where there is none that counts, which command that was started as, and all commands that run."""

    files: dict[str, bytes] = field(default_factory=dict)
    counted: int | None = None
    counter: str | None = None
    running: set[str] = field(default_factory=set)

    def without_memory(self) -> "Inside":
        """What is left when only files are kept."""
        return Inside(dict(self.files))


@dataclass
class Command:
    """A command as its record must be; without an outcome it is under way."""

    background: bool
    outcome: str | None = None
    exit_code: int | None = None


@dataclass
class Running:
    """For how long a sandbox has been ready, in ms, within what a client could observe of it."""

    least: int = 0
    most: int = 0
    since: tuple[int, int] | None = None

    def begins(self, earliest: int, latest: int) -> None:
        """It has become ready between these times."""
        self.since = earliest, latest

    def ends(self, earliest: int, latest: int) -> None:
        """It has left `ready` between these times."""
        self.least, self.most = self.within(earliest, latest)
        self.since = None

    def within(self, earliest: int, latest: int) -> tuple[int, int]:
        """The least and the most that it has run until a moment between these times."""
        if self.since is None:
            return self.least, self.most
        begun, ready = self.since
        return self.least + max(0, earliest - ready), self.most + latest - begun


@dataclass
class Box:
    """A sandbox."""

    label: str
    id: str
    isolation: str
    checkpointed: bool
    mark: str
    on_expiry: str
    auto_resume: bool
    asked_at: int
    inside: Inside = field(default_factory=Inside)
    phase: Phase = Phase.COMING
    commands: dict[str, Command] = field(default_factory=dict)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    ran: Running = field(default_factory=Running)
    kept_bytes: int = 0
    generations: set[str] = field(default_factory=set)
    reason: str | None = None
    name: str | None = None

    def _repr_pretty_(self, printer: Any, _: bool) -> None:
        """In the steps that Hypothesis prints it has its label alone."""
        printer.text(self.label)

    @property
    def sleeps(self) -> bool:
        """Whether it is paused and wakes up for whoever calls."""
        return self.auto_resume and self.phase in (Phase.PAUSING, Phase.PAUSED)

    def finished(self, command: str, exit_code: int) -> None:
        """A foreground command has been answered."""
        self.commands[command] = Command(False, "exited", exit_code)

    def started(self, command: str) -> None:
        """A background command is under way."""
        self.commands[command] = Command(True)
        self.inside.running.add(command)

    def under_way(self) -> list[str]:
        """The commands that have no outcome yet."""
        return [one for one, command in self.commands.items() if command.outcome is None]

    def cancelled(self, command: str) -> None:
        """A command that was under way was killed by its user."""
        self.commands[command] = Command(True, "cancelled", 128 + SIGKILL)
        self.inside.running.discard(command)
        if self.inside.counter == command:
            self.inside.counter = self.inside.counted = None

    def is_ready(self, asked: int, now: int) -> None:
        """It has become ready between these times, and what was kept of it is not needed any more."""
        self.phase, self.reason, self.kept_bytes = Phase.READY, None, 0
        self.ran.begins(asked, now)

    def leaves(self, phase: Phase, asked: int, now: int) -> None:
        """It leaves what it is, ready where it is that, between these times."""
        self.ran.ends(asked, now)
        self.phase = phase

    def is_paused(self, reason: str) -> None:
        """What its isolation does not keep is lost."""
        self.phase, self.reason = Phase.PAUSED, reason
        if KEEPS[self.isolation] == "files":
            self.inside = self.inside.without_memory()
            self._settle("lost_on_files_pause", set())

    def goes_back(self, to: Inside) -> None:
        """What runs now and not in the checkpoint is rolled back; what had ended has ended."""
        self.inside = deepcopy(to)
        self._settle("rolled_back", to.running)

    def is_over(self, reason: str) -> None:
        """All that runs ends with it."""
        self.phase, self.reason, self.kept_bytes = Phase.OVER, reason, 0
        self._settle("sandbox_ended", set())

    def _settle(self, outcome: str, spared: set[str]) -> None:
        for name, command in self.commands.items():
            if command.outcome is None and name not in spared:
                command.outcome = outcome

    def left_in_folder(self) -> dict[str, bytes]:
        """What is published when it ends while it is ready."""
        return {
            path.removeprefix(FOLDER): content for path, content in self.inside.files.items() if path.startswith(FOLDER)
        }


@dataclass
class Taken:
    """A checkpoint."""

    label: str
    id: str
    of: Box
    keeps: str
    bytes: int
    inside: Inside

    def _repr_pretty_(self, printer: Any, _: bool) -> None:
        printer.text(self.label)


@dataclass
class World:
    """All that one organisation has."""

    boxes: list[Box] = field(default_factory=list)
    taken: list[Taken] = field(default_factory=list)
    labels: int = 0

    def label(self, kind: str) -> str:
        """What the next sandbox or checkpoint is called in the steps that are printed."""
        self.labels += 1
        return f"{kind}{self.labels}"

    def alive(self) -> list[Box]:
        """Those that are not over."""
        return [box for box in self.boxes if box.phase is not Phase.OVER]

    def counted(self) -> int:
        """How many the plan's concurrency counts."""
        return sum(box.phase in (Phase.COMING, Phase.READY, Phase.PAUSING) for box in self.boxes)

    def paused(self) -> int:
        """How many the plan counts as kept."""
        return sum(box.phase is Phase.PAUSED for box in self.boxes)

    def stored_bytes(self) -> int:
        """What is kept of paused sandboxes, checkpoints and artifacts."""
        artifacts = sum(len(content) for box in self.boxes for content in box.artifacts.values())
        return sum(box.kept_bytes for box in self.boxes) + sum(one.bytes for one in self.taken) + artifacts

    def may_run(self, more: int = 1) -> bool:
        """Whether the plan lets so many more be made or resumed."""
        return self.counted() + more <= CONCURRENT

    def may_pause(self) -> bool:
        """Whether the plan lets one more be paused."""
        return self.paused() < PAUSED and self.may_keep()

    def may_keep(self) -> bool:
        """Whether the plan lets anything more be kept whose size is not known before."""
        return self.stored_bytes() < STORED_BYTES

    def may_publish(self, box: Box, key: str, content: bytes) -> bool:
        """Whether the plan lets this be published, in place of what there is under its key."""
        return self.stored_bytes() - len(box.artifacts.get(key, b"")) + len(content) <= STORED_BYTES

    def salvage(self, box: Box) -> None:
        """What is left in the folder of a ready sandbox that ends is published, as far as the plan lets it."""
        for key, content in sorted(box.left_in_folder().items()):
            if self.may_publish(box, key, content):
                box.artifacts[key] = content


class Story:
    """A sandbox's timeline, read once: its steps in order, how long it ran, and how often each command began and
    ended."""

    def __init__(self, items: Iterable[Mapping[str, Any]]) -> None:
        self.items = list(items)

    def gaps(self) -> list[int]:
        """Sequences that are not one behind the one before."""
        numbers = [item["sequence"] for item in self.items]
        return [number for number, wanted in zip(numbers, range(1, len(numbers) + 1), strict=True) if number != wanted]

    def steps(self) -> Iterator[tuple[int, Status]]:
        """When it came into each of its statuses."""
        before = None
        for item in self.items:
            status = item["data"].get("status")
            if status is not None and status != before:
                yield item["at"], Status(status)
                before = status

    def illegal(self) -> list[str]:
        """Steps that the lifecycle does not have."""
        statuses = [status for _, status in self.steps()]
        wrong = [] if statuses[0] is Status.QUEUED else [f"began {statuses[0]}"]
        return wrong + [f"{a} → {b}" for a, b in pairwise(statuses) if b not in STEPS[a]]

    def ran_ms(self, until: int) -> int:
        """The sum of the spans in which it was ready."""
        ran, since = 0, None
        for at, status in self.steps():
            ran += 0 if since is None else at - since
            since = at if status is Status.READY else None
        return ran + (0 if since is None else until - since)

    def commands(self) -> Counter[tuple[str, str | None]]:
        """How often each command is said to have begun (None) and to have ended with each outcome."""
        told: Counter[tuple[str, str | None]] = Counter()
        for item in self.items:
            if item["type"] in ("sandbox.command.started", "sandbox.command.ended"):
                told[item["data"]["processId"], item["data"].get("outcome")] += 1
        return told
