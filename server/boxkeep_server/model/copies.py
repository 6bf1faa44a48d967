"""Copies of snapshots in the store of blobs: what is known of one, and where its bytes lie."""

from dataclasses import dataclass
from typing import Final

from boxkeep_server.model.node_api import BaseKind, SnapshotBases

_SEGMENT: Final = "snapshots"
_BASES: Final = "bases"


@dataclass(frozen=True, slots=True)
class Copied:
    """A snapshot of which there is a copy, or is to be one; `name` is what nodes call it. It is one of a checkpoint, or
    of the pause of the main machine's `epoch`: what there is of all machines of a sandbox is in the store once each has
    its copy."""

    organisation: str
    sandbox: str
    epoch: int
    checkpoint: str | None
    name: str

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
