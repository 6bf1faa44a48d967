"""Every test, in two lanes side by side: python -m tests.lanes [WORD…], whose words both pytests get.

A lane is a pytest process with an instance, a network and ports of its own. Tests wait for more than they compute, so
two of them on two processors are sooner done than one after the other. The first runs the directories that it names,
the second all the rest: no test can be forgotten. What the first says is seen at once; what the second says is kept in
a file and follows whole when both are over, so that each reads as if it had run alone.
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
from types import FrameType
from typing import IO, NoReturn

from tests.instances import OWN, Instance

NAMED = ("tests/chaos", "tests/system")
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
SECOND = Lane(tuple(f"--ignore={directory}" for directory in NAMED), OWN.lane("o"))


def main(words: Sequence[str], first: Lane = FIRST, second: Lane = SECOND) -> int:
    """Run both lanes; the exit code, which is 0 when every test of both has passed."""
    for number in _WISHES:
        signal.signal(number, _interrupt)
    with tempfile.NamedTemporaryFile(prefix="boxkeep-second-lane-", suffix=".log") as kept:
        print(f"What the second lane says is kept in {kept.name} and follows what the first says.", flush=True)
        codes = _run(lambda: first.start(words), lambda: second.start(words, kept.file))
        print("\n== the second lane", flush=True)
        kept.seek(0)
        shutil.copyfileobj(kept, sys.stdout.buffer)
    print(f"\n== exit codes of the two lanes: {codes}", flush=True)
    return int(any(codes))


def _run(*starts: Callable[[], Pytest]) -> list[int]:
    """The exit codes of both, which have come to their ends or were interrupted as somebody wished."""
    running: list[Pytest] = []
    try:
        for start in starts:
            running.append(start())
        return [process.wait() for process in running]
    except Interrupted:
        return _end(running)


def _end(running: list[Pytest]) -> list[int]:
    """Have pytests clear up, and see to it that they are gone."""
    for process in running:
        process.send_signal(signal.SIGINT)
    until = time.monotonic() + CLEARING_UP_S
    for process in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(until - time.monotonic(), 0))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return [process.wait() for process in running]


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    for number in _WISHES:
        signal.signal(number, signal.SIG_IGN)  # a second time would break off the clearing up
    raise Interrupted


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
