"""The wall clock of a service's processes, moved while they run; monotonic clocks are left alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MOVER = Path(__file__).parent / "moved_clock"
"""What has to be on the path of a Python process that shall read the clock."""


@dataclass(frozen=True)
class Wall:
    """A clock that is as far ahead of the true one as its file says."""

    file: Path

    @property
    def settings(self) -> dict[str, str]:
        """Variables of a process that shall read it."""
        return {"TEST_WALL_CLOCK": str(self.file)}

    def set(self, ahead_s: float) -> None:
        """Set the clock so far ahead of the true one, or behind it."""
        new = self.file.with_suffix(".new")
        new.write_text(f"{ahead_s}\n")
        new.chmod(0o644)
        new.replace(self.file)

    @contextmanager
    def jumped(self, ahead_s: float) -> Iterator[None]:
        """Within it the clock is that far ahead."""
        self.set(ahead_s)
        try:
            yield
        finally:
            self.set(0)
