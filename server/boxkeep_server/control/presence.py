"""Who is there: which sandboxes have somebody at one of their previews."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Presence:
    """Counts visitors by sandbox."""

    def __init__(self) -> None:
        self._visitors: Counter[str] = Counter()

    @contextmanager
    def at(self, sandbox: str) -> Iterator[None]:
        """Be counted while the block runs."""
        self._visitors[sandbox] += 1
        try:
            yield
        finally:
            self._visitors[sandbox] -= 1
            if not self._visitors[sandbox]:
                del self._visitors[sandbox]

    def has(self, sandbox: str) -> bool:
        """Whether somebody is there now."""
        return sandbox in self._visitors
