"""Rate limits: kinds of calls, their sustained rate and burst, and the token bucket that enforces them."""

import math
from dataclasses import dataclass
from enum import StrEnum


class CallKind(StrEnum):
    """Kinds of calls that share a bucket per organisation."""

    CREATE = "create"
    READ = "read"
    DELETE = "delete"
    EXEC = "exec"
    TERMINAL = "terminal"
    FILES = "files"
    PROMPT = "prompt"
    USAGE = "usage"


@dataclass(frozen=True, slots=True)
class Rate:
    """A sustained number of calls a minute, and how many may come at once."""

    per_minute: int
    burst: int


RATES: dict[CallKind, Rate] = {
    CallKind.CREATE: Rate(60, 20),
    CallKind.READ: Rate(600, 100),
    CallKind.DELETE: Rate(120, 30),
    CallKind.EXEC: Rate(300, 50),
    CallKind.TERMINAL: Rate(600, 100),
    CallKind.FILES: Rate(300, 50),
    CallKind.PROMPT: Rate(300, 50),
    CallKind.USAGE: Rate(30, 10),
}


ROUNDING = 1e-6
"""So much of a call may lack: who waits as long as it was told is not refused again for the last bit of a sum."""


@dataclass(slots=True)
class Bucket:
    """A token bucket; time is given in, in seconds of a monotonic clock."""

    rate: Rate
    tokens: float
    at_s: float

    @classmethod
    def full(cls, rate: Rate, now_s: float) -> "Bucket":
        """A bucket that allows a whole burst."""
        return cls(rate, float(rate.burst), now_s)

    def take(self, now_s: float) -> int:
        """Take one call: 0 when it is allowed, else after how many whole seconds to try again."""
        per_s = self.rate.per_minute / 60
        self.tokens = min(float(self.rate.burst), self.tokens + max(0.0, now_s - self.at_s) * per_s)
        self.at_s = now_s
        if self.tokens > 1 - ROUNDING:
            self.tokens -= 1
            return 0
        return max(1, math.ceil((1 - self.tokens) / per_s))
