"""Every test, in two lanes side by side: python -m tests.lanes [WORD…], whose words all pytests get.

A lane is a pytest process with an instance, a network and ports of its own. Tests wait for more than they compute, so
two of them on two processors are sooner done than one after the other. The first runs the directories that it names,
the second all the rest: no test can be forgotten. What the first says is seen at once; what the second says is kept in
a file and follows whole when both are over, so that each reads as if it had run alone. Then comes what takes the whole
machine for itself, and would have the tests beside it wait for longer than they may.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import IO, NoReturn

from tests.instances import OWN, Instance

NAMED = ("tests/chaos", "tests/system")
GREEDY = ("tests/security/test_exhaustion.py",)
CLEARING_UP_S = 180.0
"""How long a lane that is interrupted may take to take its services down."""
_WISHES = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Pytest = subprocess.Popen[bytes]


class Interrupted(BaseException):
    """Somebody wants this to end."""


@dataclass(frozen=True)
class Lane:
    """The words by which pytest chooses its tests, and the instance that they run on."""

    chosen: tuple[str, ...]
    instance: Instance

    def start(self, words: Sequence[str], out: IO[bytes] | None = None) -> Pytest:
        """Start it, in a session of its own: a key pressed at a terminal is for us to pass on, once. It is interrupted
        too when we end without a word."""
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "INT", sys.executable, "-m", "pytest", *self.chosen, *words],
            env={**os.environ, "TEST_INSTANCE": self.instance.name, "TEST_SUBNET": self.instance.subnet},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


FIRST = Lane(NAMED, OWN)
SECOND = Lane(tuple(f"--ignore={path}" for path in (*NAMED, *GREEDY)), OWN.lane("o"))
LAST = Lane(GREEDY, OWN)


def main(words: Sequence[str], first: Lane = FIRST, second: Lane = SECOND, last: Lane = LAST) -> int:
    """Run all; the exit code, which is 0 when every test has passed."""
    for number in _WISHES:
        signal.signal(number, _interrupt)
    try:
        codes = [*_side_by_side(words, first, second), *_run(partial(last.start, words))]
    except Interrupted:
        return 1
    print(f"\n== exit codes of the first lane, the second and what came last: {codes}", flush=True)
    return int(any(codes))


def _side_by_side(words: Sequence[str], first: Lane, second: Lane) -> list[int]:
    with tempfile.NamedTemporaryFile(prefix="boxkeep-second-lane-", suffix=".log") as kept:
        print(f"What the second lane says is kept in {kept.name} and follows what the first says.", flush=True)
        try:
            return _run(partial(first.start, words), partial(second.start, words, kept.file))
        finally:
            print("\n== the second lane", flush=True)
            kept.seek(0)
            shutil.copyfileobj(kept, sys.stdout.buffer)
            print(flush=True)


def _run(*starts: Callable[[], Pytest]) -> list[int]:
    """The exit codes of what is started at once, when all have come to their ends.

    Raises:
        Interrupted: somebody wished so, and they have cleared up.
    """
    running: list[Pytest] = []
    try:
        for start in starts:
            running.append(start())
        return [process.wait() for process in running]
    except Interrupted:
        _end(running)
        raise


def _end(running: list[Pytest]) -> None:
    """Have pytests clear up, and see to it that they are gone."""
    for process in running:
        process.send_signal(signal.SIGINT)
    until = time.monotonic() + CLEARING_UP_S
    for process in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(until - time.monotonic(), 0))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    for number in _WISHES:
        signal.signal(number, signal.SIG_IGN)  # a second time would break off the clearing up
    raise Interrupted


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
