"""What the nodes last said of themselves: what they can do, where they are, how full they were."""

from collections.abc import Collection, Sequence

from boxkeep_server.engine.interface import Engine
from boxkeep_server.model.node_api import IsolationFacts, NodeFacts


class Fleet:
    """Remembers facts of nodes; `refresh` asks for them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._facts: dict[str, NodeFacts] = {}

    async def refresh(self) -> Sequence[NodeFacts]:
        """What all nodes say now.

        Raises:
            NodeAway
        """
        told = await self._engine.nodes()
        self._facts = {facts.node_id: facts for facts in told}
        return told

    async def of(self, node: str) -> NodeFacts | None:
        """What a node said of itself; asked for if it never did. None: no node says that it is this one.

        Raises:
            NodeAway
        """
        if node not in self._facts:
            await self.refresh()
        return self._facts.get(node)

    def isolations(self) -> Collection[str] | None:
        """The isolations that can be had, None while no node has spoken."""
        return {name for facts in self._facts.values() for name in facts.isolations} or None

    def images(self) -> Collection[str] | None:
        """The images that sandboxes can begin from, None while no node has spoken."""
        return {name for facts in self._facts.values() for name in facts.images} or None


def isolation_facts(facts: NodeFacts, isolation: str) -> IsolationFacts | None:
    """What an isolation can do on a node, None where the node does not offer it."""
    return next((about for name, about in facts.isolations.items() if name == isolation), None)
