"""Count: what belongs to nobody, on any node or in the store of blobs, is counted for the operator's figures."""

from collections.abc import Callable, Mapping

from boxkeep_server.control.strays import Strays
from boxkeep_server.engine.interface import Engine, NodeAway


class Count:
    """Tells how many things of each kind nobody owns; None while a node is away, of which nothing is known then. Of
    blobs those count that are known to be in doubt."""

    def __init__(self, engine: Engine, strays: Strays, tell: Callable[[Mapping[str, int] | None], None]) -> None:
        self._engine = engine
        self._strays = strays
        self._tell = tell

    async def run_once(self) -> int:
        """Count once; how many there are in all."""
        try:
            found = await self._engine.leaks()
        except NodeAway:
            self._tell(None)
            return 0
        counts = {leak.kind: len(leak.items) for leak in found.leaks} | {"blobs": len(self._strays)}
        self._tell(counts)
        return sum(counts.values())
