"""Hints that claims have changed, to whoever listens; a slow listener loses the oldest."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from boxkeep_server.model.node_api import ClaimHint
from boxkeep_server.node.bindings import Binding

_KEPT: Final = 1024


class Hints:
    """Passes each hint on to everyone who listens at that moment."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[ClaimHint | None]] = set()

    def tell(self, binding: Binding) -> None:
        """A claim is as `binding` says now."""
        hint = ClaimHint(
            sandbox=binding.sandbox,
            epoch=binding.epoch,
            role=binding.role,
            state=binding.state,
            reason=binding.reason,
        )
        self._put(hint)

    def close(self) -> None:
        """Tell everyone who listens, by None, that nothing more comes."""
        self._put(None)

    def _put(self, hint: ClaimHint | None) -> None:
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(hint)

    @contextmanager
    def listen(self) -> Iterator[asyncio.Queue[ClaimHint | None]]:
        """A queue of the hints from now on."""
        queue: asyncio.Queue[ClaimHint | None] = asyncio.Queue(_KEPT)
        self._listeners.add(queue)
        try:
            yield queue
        finally:
            self._listeners.discard(queue)
