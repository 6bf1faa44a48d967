"""Samples of how long something took, and the two numbers that are told of them."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Samples:
    """Durations in ms."""

    ms: tuple[float, ...]

    @property
    def p50(self) -> float:
        """The median."""
        return statistics.median(self.ms)

    @property
    def p99(self) -> float:
        """The value that 99 of 100 do not exceed; of few samples the largest."""
        ordered = sorted(self.ms)
        return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]

    def __str__(self) -> str:
        return f"{self.p50:.1f} / {self.p99:.1f} ms ({len(self.ms)})"


def timed(act: Callable[[], Any]) -> float:
    """How long one call took, in ms."""
    begun = time.perf_counter()
    act()
    return (time.perf_counter() - begun) * 1000


def sampled(act: Callable[[], Any], count: int, between: Callable[[], Any] | None = None) -> Samples:
    """`count` calls timed one after the other, `between` called untimed before each."""
    taken = []
    for _ in range(count):
        if between is not None:
            between()
        taken.append(timed(act))
    return Samples(tuple(taken))
