"""Copies of snapshots in the store of blobs: what is known of one, and where its bytes lie."""

from dataclasses import dataclass
from typing import Final

from boxkeep_server.model.node_api import BaseKind, SnapshotBases, pause_name

_SEGMENT: Final = "snapshots"
_BASES: Final = "bases"


@dataclass(frozen=True, slots=True)
class Copied:
    """The snapshot of which there is a copy, or is to be one: a checkpoint's, or that of the pause of an epoch."""

    organisation: str
    sandbox: str
    epoch: int
    checkpoint: str | None

    @property
    def name(self) -> str:
        """What nodes call the snapshot."""
        return self.checkpoint or pause_name(self.sandbox, self.epoch)

    @property
    def blob(self) -> str:
        """The key of the copy's bytes."""
        return f"{self.organisation}/{_SEGMENT}/{self.name}"


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy that is whole. `bytes` is its size in the store."""

    of: Copied
    bases: SnapshotBases
    bytes: int


def base_blob(kind: BaseKind, digest: str) -> str:
    """The key of an image's or a guest's bytes, which all copies share that are made over it."""
    return f"{_BASES}/{kind}/{digest}"
