"""In a process of a service under test: the wall clock is as far ahead of the true one as a file says, in seconds.

Python reads this module before the program when its directory is on the path. Monotonic clocks are left alone, and so
are sleeps, which libfaketime does not manage for Python 3.11 (its `time.sleep` is a clock_nanosleep to a moment).
"""

import os
import time
from pathlib import Path

_FILE = Path(os.environ["TEST_WALL_CLOCK"])
_READ_AGAIN_S = 0.05
_true_ns = time.time_ns
_read: list[float] = [float("-inf"), 0.0]


def _ahead_s() -> float:
    if time.monotonic() - _read[0] > _READ_AGAIN_S:
        _read[:] = [time.monotonic(), float(_FILE.read_text())]
    return _read[1]


def _time_ns() -> int:
    return _true_ns() + round(_ahead_s() * 1e9)


def _time() -> float:
    return _time_ns() / 1e9


time.time, time.time_ns = _time, _time_ns
