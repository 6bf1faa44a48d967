"""The count of what belongs to nobody, in the figures of the API."""

from boxkeep_server.control.reconcile.count import Count
from boxkeep_server.engine.gone import GoneEngine
from boxkeep_server.engine.interface import NodeAway
from boxkeep_server.model.node_api import LeakCount, Leaks
from boxkeep_server.web.metrics import Metrics


class Leaky(GoneEngine):
    """Holds what nobody owns, and is away when it is told to be."""

    def __init__(self) -> None:
        self.away = False

    async def leaks(self) -> Leaks:
        if self.away:
            raise NodeAway("it is away")
        return Leaks(leaks=(LeakCount(kind="netns", items=("a", "b")), LeakCount(kind="mounts", items=())))


async def test_what_belongs_to_nobody_is_counted_by_kind_and_not_known_while_a_node_is_away() -> None:
    engine, metrics = Leaky(), Metrics()
    count = Count(engine, metrics.leaked)
    assert await count.run_once() == 2
    shown = metrics.exposition()[0].decode()
    assert 'boxkeep_leaks{kind="netns"} 2.0' in shown
    assert 'boxkeep_leaks{kind="mounts"} 0.0' in shown
    engine.away = True
    assert await count.run_once() == 0
    assert "boxkeep_leaks{" not in metrics.exposition()[0].decode()
