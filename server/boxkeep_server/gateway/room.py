"""How many requests may be under way at once: in one sandbox, of one organisation."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from boxkeep_server.gateway.refusals import too_many

IN_SANDBOX: Final = 100
OF_ORGANISATION: Final = 1000
KEPT_IN_SANDBOX: Final = 50
"""Connections into one sandbox that wait for their client's next request. With those of requests under way they leave
to commands, files and terminals a third of the connections that its guest takes of us."""


class Room:
    """Counts."""

    def __init__(self, in_sandbox: int = IN_SANDBOX, of_organisation: int = OF_ORGANISATION) -> None:
        self._most = (in_sandbox, of_organisation)
        self._taken: Counter[str] = Counter()
        self._kept: Counter[str] = Counter()

    @contextmanager
    def taken(self, sandbox: str, organisation: str) -> Iterator[None]:
        """Take room for the block.

        Raises:
            Refusal: there is none.
        """
        if self._taken[sandbox] >= self._most[0] or self._taken[organisation] >= self._most[1]:
            raise too_many()
        with _counted(self._taken, sandbox), _counted(self._taken, organisation):
            yield

    def keeps(self, sandbox: str) -> bool:
        """Take room for a connection that waits, if there is any; `let_go` gives it back."""
        if self._kept[sandbox] >= KEPT_IN_SANDBOX:
            return False
        self._kept[sandbox] += 1
        return True

    def let_go(self, sandbox: str) -> None:
        """A connection waits no longer."""
        _lower(self._kept, sandbox)


@contextmanager
def _counted(counter: "Counter[str]", name: str) -> Iterator[None]:
    counter[name] += 1
    try:
        yield
    finally:
        _lower(counter, name)


def _lower(counter: "Counter[str]", name: str) -> None:
    counter[name] -= 1
    if counter[name] <= 0:
        del counter[name]
