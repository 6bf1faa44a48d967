"""Findings about a host: what was looked at, what was seen, how bad that is, and how to mend it; pure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Verdict = Literal["ok", "lost", "fatal"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `mend` says what to do and what is lost without it, empty when all is well."""

    subject: str
    verdict: Verdict
    seen: str
    mend: str = ""

    @property
    def fatal(self) -> bool:
        """Whether Boxkeep cannot run because of it."""
        return self.verdict == "fatal"

    def plain(self) -> dict[str, str]:
        """The same as a JSON object."""
        return asdict(self)


def render(findings: Sequence[Finding]) -> str:
    """A table for a terminal."""
    marks = {"ok": "ok   ", "lost": "LOST ", "fatal": "FATAL"}
    lines = []
    for one in findings:
        lines.append(f"{marks[one.verdict]}  {one.subject:14}{one.seen}")
        if one.mend:
            lines.append(f"       {'':14}→ {one.mend}")
    return "\n".join(lines)
