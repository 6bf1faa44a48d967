"""Count: what belongs to nobody on any node is counted, for the operator's figures."""

from collections.abc import Callable, Mapping

from boxkeep_server.engine.interface import Engine, NodeAway


class Count:
    """Tells how many things of each kind nobody owns; None while a node is away, of which nothing is known then."""

    def __init__(self, engine: Engine, tell: Callable[[Mapping[str, int] | None], None]) -> None:
        self._engine = engine
        self._tell = tell

    async def run_once(self) -> int:
        """Count once; how many there are in all."""
        try:
            found = await self._engine.leaks()
        except NodeAway:
            self._tell(None)
            return 0
        self._tell({leak.kind: len(leak.items) for leak in found.leaks})
        return found.total
