"""What a node writes into its directory: bindings, released epochs, marks, heartbeat, its own name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from boxkeep_server.model.ids import is_id
from boxkeep_server.node import durable
from boxkeep_server.node.bindings import Bindings
from boxkeep_server.node.heartbeat import Heartbeat
from boxkeep_server.node.layer import Tripwire, no_tripwire
from boxkeep_server.node.marks import Marks
from boxkeep_server.node.released import Released


@dataclass(frozen=True)
class Files:
    """The files of one node."""

    bindings: Bindings
    released: Released
    marks: Marks
    heartbeat: Heartbeat


def files_in(lib: Path, step: Tripwire = no_tripwire) -> Files:
    """The files of the node whose directory is `lib`."""
    return Files(
        bindings=Bindings(lib / "claims", step),
        released=Released(lib / "released", step),
        marks=Marks(lib / "pool", step),
        heartbeat=Heartbeat(lib / "heartbeat.json", step),
    )


def node_id(lib: Path, new_id: Callable[[], str]) -> str:
    """The node's own id, drawn once and kept."""
    path = lib / "node-id"
    try:
        kept = path.read_text().strip()
    except FileNotFoundError:
        kept = ""
    if is_id(kept):
        return kept
    path.unlink(missing_ok=True)
    fresh = new_id()
    durable.create(path, f"{fresh}\n".encode())
    return fresh
