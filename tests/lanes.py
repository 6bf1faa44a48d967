"""Every test, in two lanes side by side: python -m tests.lanes [WORD…], whose words both pytests get.

A lane is a pytest process with an instance, a network and ports of its own. Tests wait for more than they compute, so
two of them on two processors are sooner done than one after the other. The first runs the directories that it names,
the second all the rest: no test can be forgotten. What the first says is seen at once; what the second says is kept in
a file and follows whole when both are over, so that each reads as if it had run alone.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from tests.instances import OWN, Instance

NAMED = ("tests/chaos", "tests/system")
CLEARING_UP_S = 180.0
"""How long a lane that is interrupted may take to take its services down."""


class Interrupted(BaseException):
    """Somebody wants this to end."""


@dataclass(frozen=True)
class Lane:
    """The words by which pytest chooses its tests, and the instance that they run on."""

    chosen: tuple[str, ...]
    instance: Instance

    def start(self, words: Sequence[str], out: IO[bytes] | None = None) -> "subprocess.Popen[bytes]":
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


def run(words: Sequence[str], kept: IO[bytes]) -> list[int]:
    """Run both lanes to their ends, or interrupt them when that is wished; their exit codes."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        running.append(SECOND.start(words, kept))
        running.append(FIRST.start(words))
        return [process.wait() for process in running]
    except Interrupted:
        return _end(running)


def _end(running: list["subprocess.Popen[bytes]"]) -> list[int]:
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
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a second time would break off the clearing up
    raise Interrupted


def main() -> int:
    """The exit code: 0 when every test of both has passed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    place = Path(tempfile.mkdtemp(prefix="boxkeep-lanes-")) / "second.log"
    print(f"What the second lane says is kept in {place} and follows what the first says.", flush=True)
    with place.open("wb") as kept:
        second, first = run(sys.argv[1:], kept)
    print("\n== the second lane", flush=True)
    with place.open("rb") as said:
        sys.stdout.buffer.writelines(said)
    print(f"\n== exit codes of the lanes: {first} of the first, {second} of the second", flush=True)
    return int(any((first, second)))


if __name__ == "__main__":
    sys.exit(main())
