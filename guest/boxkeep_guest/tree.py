"""Process trees: who descends from a process that we started, and how to end them all, whatever they do."""

import contextlib
import os
import signal
from collections.abc import Callable
from typing import NamedTuple

_PASSES = 300
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Seen(NamedTuple):
    """A process as it was seen: `start` tells it from a later one with its pid, `rss` is in bytes."""

    pid: int
    parent: int
    session: int
    start: int
    zombie: bool
    rss: int
    mark: int


def snapshot(limit_name: bytes, proc: str = "/proc") -> list[Seen]:
    """All processes that can be seen, but the caller."""
    own = os.getpid()
    pids = [int(name) for name in os.listdir(proc) if name.isdigit()]  # noqa: PTH208 - pathlib costs start-up
    found = (look(pid, limit_name, proc) for pid in pids if pid != own)
    return [seen for seen in found if seen is not None]


def look(pid: int, limit_name: bytes, proc: str = "/proc") -> Seen | None:
    """One process, or None when it is gone."""
    try:
        stat = _read(f"{proc}/{pid}/stat")
        limits = _read(f"{proc}/{pid}/limits")
    except OSError:
        return None
    fields = stat.rpartition(b")")[2].split()
    if len(fields) < 22:
        return None
    return Seen(
        pid=pid,
        parent=int(fields[1]),
        session=int(fields[3]),
        start=int(fields[19]),
        zombie=fields[0] in (b"Z", b"X"),
        rss=int(fields[21]) * _PAGE,
        mark=_soft_limit(limits, limit_name),
    )


def _read(path: str) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, 8192)
    finally:
        os.close(file)


def _soft_limit(limits: bytes, name: bytes) -> int:
    at = limits.find(name)
    if at < 0:
        return 0
    value = limits[at + len(name) : at + len(name) + 64].split()
    return int(value[0]) if value and value[0].isdigit() else 0


def members(seen: list[Seen], root: int, mark: int, known: set[tuple[int, int]]) -> list[Seen]:
    """Those of `seen` that belong to the process `root` with `mark`.

    That is: the root, who carries the mark, who is in the root's session, who was `known` as (pid, start) before, and
    all descendants of any of them.
    """
    children: dict[int, list[Seen]] = {}
    for one in seen:
        children.setdefault(one.parent, []).append(one)
    waiting = [
        one for one in seen if one.mark == mark or root in (one.pid, one.session) or (one.pid, one.start) in known
    ]
    found: dict[int, Seen] = {}
    while waiting:
        one = waiting.pop()
        if one.pid not in found:
            found[one.pid] = one
            waiting += children.get(one.pid, ())
    return list(found.values())


def owners(seen: list[Seen], ours: range) -> dict[int, int]:
    """For each pid the mark of the process that it belongs to: its own, else that of its nearest ancestor, else 0."""
    by_pid = {one.pid: one for one in seen}
    found: dict[int, int] = {}
    for one in seen:
        chain: list[int] = []
        at: Seen | None = one
        while at is not None and at.pid not in found and at.mark not in ours and at.pid not in chain:
            chain.append(at.pid)
            at = by_pid.get(at.parent)
        mark = 0 if at is None else found.get(at.pid, at.mark if at.mark in ours else 0)
        found.update(dict.fromkeys([*chain, *([at.pid] if at is not None else [])], mark))
    return found


def largest(seen: list[Seen], ours: range, alone: bool, weight: Callable[[Seen], int]) -> tuple[int, int, int] | None:
    """The tree that weighs most: its mark, its weight, and the pid of its heaviest process; None where none weighs.

    Processes of nobody known, mark 0, count only where the guest is `alone` with what it started.
    """
    belongs = owners(seen, ours)
    seen = [one for one in seen if alone or belongs[one.pid]]
    sizes: dict[int, int] = {}
    for one in seen:
        sizes[belongs[one.pid]] = sizes.get(belongs[one.pid], 0) + weight(one)
    if not any(sizes.values()):
        return None
    mark = max(sizes, key=lambda key: sizes[key])
    biggest = max((one for one in seen if belongs[one.pid] == mark), key=weight)
    return mark, sizes[mark], biggest.pid


class Tree:
    """Everything that descends from one process that we started. Its methods block: not for the event loop."""

    def __init__(self, root: int, mark: int, limit_name: bytes) -> None:
        self._root = root
        self.mark = mark
        self._limit_name = limit_name
        self._known: set[tuple[int, int]] = set()

    def root_gone(self) -> None:
        """The root was reaped: its pid may come to belong to another process."""
        self._root = -1

    def look(self) -> list[Seen]:
        """The members alive now; whoever was once seen stays known."""
        found = members(snapshot(self._limit_name), self._root, self.mark, self._known)
        alive = [one for one in found if not one.zombie]
        self._known = {(one.pid, one.start) for one in alive}
        return alive

    def signal(self, number: int) -> int:
        """Send a signal to every member; how many there were."""
        if number == signal.SIGKILL:
            return self.kill()
        alive = self.look()
        for one in alive:
            send(one.pid, number)
        return len(alive)

    def signal_session(self, number: int) -> None:
        """Send a signal to the root's session: all that runs in a terminal."""
        for one in snapshot(self._limit_name):
            if one.session == self._root:
                send(one.pid, number)

    def kill(self) -> int:
        """Stop all members until no running one is found, so that none can fork away; then kill them all.

        The root's group is stopped first, by one call: what forks faster than it can be looked at is mostly in there.
        """
        stopped: set[tuple[int, int]] = set()
        self._signal_group(signal.SIGSTOP)
        for _ in range(_PASSES):
            fresh = [one for one in self.look() if (one.pid, one.start) not in stopped]
            if not fresh:
                break
            for one in fresh:
                send(one.pid, signal.SIGSTOP)
                stopped.add((one.pid, one.start))
        alive = self.look()
        self._signal_group(signal.SIGKILL)
        for one in alive:
            send(one.pid, signal.SIGKILL)
        return len(stopped)

    def _signal_group(self, number: int) -> None:
        if self._root > 1:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._root, number)


def send(pid: int, number: int) -> bool:
    """Send a signal to one process; false when it is gone or not ours."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
