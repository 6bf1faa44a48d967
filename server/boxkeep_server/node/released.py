"""Released epochs, remembered for a day and on disk, so that a late claim of one finds the door shut."""

from pathlib import Path
from typing import Final

from boxkeep_server.model.machines import Key
from boxkeep_server.node import durable
from boxkeep_server.node.layer import Tripwire, no_tripwire

HOUR_MS: Final = 3_600_000
KEPT_MS: Final = 24 * HOUR_MS


class Released:
    """A journal by hours, `<hour>.log`, with a line for each release; the last lines of a file may be torn."""

    def __init__(self, directory: Path, step: Tripwire = no_tripwire) -> None:
        self._directory = directory
        self._step = step
        self._at: dict[Key, int] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._at

    def load(self, now: int) -> None:
        """Read what is remembered."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in sorted(self._directory.glob("*.log")):
            for line in path.read_text(errors="replace").splitlines():
                self._learn(line)
        self.prune(now)

    def note(self, key: Key, now: int) -> None:
        """Remember a release; on the device when this returns. Blocking."""
        self._step("note release")
        # The line break before it too, so that a torn line of a killed process costs itself alone.
        line = f"\n{key.sandbox} {key.epoch} {key.role} {now}\n"
        durable.append(self._directory / f"{now // HOUR_MS}.log", line.encode())
        self._at[key] = now

    def prune(self, now: int) -> None:
        """Forget what is older than a day."""
        self._at = {key: at for key, at in self._at.items() if at > now - KEPT_MS}
        for path in self._directory.glob("*.log"):
            if path.stem.isdecimal() and (int(path.stem) + 1) * HOUR_MS <= now - KEPT_MS:
                path.unlink()

    def _learn(self, line: str) -> None:
        what, _, at = line.rpartition(" ")
        key = Key.named(what.replace(" ", "-"))
        if key is not None and at.isdecimal():
            self._at[key] = int(at)
