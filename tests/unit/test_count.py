"""The count of what belongs to nobody, in the figures of the API."""

from pathlib import Path

from boxkeep_server.control.reconcile.count import Count
from boxkeep_server.control.strays import Strays
from boxkeep_server.engine.gone import GoneEngine
from boxkeep_server.engine.interface import NodeAway
from boxkeep_server.model.artifacts import Artifact
from boxkeep_server.model.node_api import LeakCount, Leaks
from boxkeep_server.web.metrics import Metrics
from tests.blob_stores import MemoryBlobs
from tests.controls import sqlite_store
from tests.engines import Clock

BLOB = Artifact("a" * 32, "o" * 32, "s" * 32, "key", 0, "", "", 0).blob


class Leaky(GoneEngine):
    """Holds what nobody owns, and is away when it is told to be."""

    def __init__(self) -> None:
        self.away = False

    async def leaks(self) -> Leaks:
        if self.away:
            raise NodeAway("it is away")
        return Leaks(leaks=(LeakCount(kind="netns", items=("a", "b")), LeakCount(kind="mounts", items=())))


async def test_what_belongs_to_nobody_is_counted_by_kind_and_not_known_while_a_node_is_away(tmp_path: Path) -> None:
    engine, metrics, blobs = Leaky(), Metrics(), MemoryBlobs(Clock())
    async with sqlite_store(tmp_path) as database:
        strays = Strays(database, blobs)
        blobs.away = True
        count = Count(engine, strays, metrics.leaked)
        await strays.delete(BLOB)
        assert await count.run_once() == 3
        shown = metrics.exposition()[0].decode()
        assert 'boxkeep_leaks{kind="netns"} 2.0' in shown
        assert 'boxkeep_leaks{kind="mounts"} 0.0' in shown
        assert 'boxkeep_leaks{kind="blobs"} 1.0' in shown
        blobs.away = False
        assert await strays.run_once() == 1
        await count.run_once()
        assert 'boxkeep_leaks{kind="blobs"} 0.0' in metrics.exposition()[0].decode()
    engine.away = True
    assert await count.run_once() == 0
    assert "boxkeep_leaks{" not in metrics.exposition()[0].decode()
