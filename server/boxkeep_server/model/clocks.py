"""A wall clock without jumps: it goes on by one that nobody sets, and follows the host's when it is told to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

JUMP_MS: Final = 1_000
"""How far the host's clock has to be off before it was set: what is less is let be."""


@dataclass(slots=True)
class SteadyClock:
    """Epoch ms that two readings tell apart by the time between them, whatever was done to the host's clock.

    `wall_ms` is the host's clock, `uptime_ms` counts since the host started; `ahead_ms` is what the epoch is ahead of
    that, as it was last followed. Without it, it is what it is now.
    """

    wall_ms: Callable[[], int]
    uptime_ms: Callable[[], int]
    ahead_ms: int = 0

    def __post_init__(self) -> None:
        self.ahead_ms = self.ahead_ms or self.wall_ms() - self.uptime_ms()

    def now_ms(self) -> int:
        """The time, epoch ms."""
        return self.uptime_ms() + self.ahead_ms

    def jump_ms(self) -> int:
        """How far the host's clock was set forwards, or backwards, and this one has not followed."""
        jump = self.wall_ms() - self.now_ms()
        return jump if abs(jump) >= JUMP_MS else 0

    def follow(self, jump_ms: int) -> None:
        """Be that much later from now on."""
        self.ahead_ms += jump_ms
