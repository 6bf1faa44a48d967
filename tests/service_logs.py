"""What the services said while a test ran, for the report of one that failed: the test may be over, and its service
taken down and its logs written over, before anybody can look."""

from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest

MOST: Final = 12_000
_OFTEN: Final = (" INFO ", " DEBUG ")

_logs: set[Path] = set()
_begun = pytest.StashKey[dict[Path, int]]()


def follow(log: Path) -> None:
    """Have a file told of when a test fails."""
    _logs.add(log)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note how far each log is when a test begins."""
    item.stash[_begun] = {log: log.stat().st_size for log in _logs if log.exists()}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what has been said since then, but for what is said all the time, to a report of failure."""
    report = yield
    if report.failed:
        begun = item.stash.get(_begun, {})
        for log in sorted(log for log in _logs if log.exists()):
            if said := _said(log, begun.get(log, 0)):
                report.sections.append((f"{log.parent.name}/{log.name}", said))
    return report


def _said(log: Path, since: int) -> str:
    with log.open("rb") as lines:
        lines.seek(since if since <= log.stat().st_size else 0)
        told = lines.read().decode(errors="replace").splitlines()
    return "\n".join(line for line in told if not any(word in line for word in _OFTEN))[-MOST:]
