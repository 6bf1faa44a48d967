"""What control asks of the nodes, whether there is one or a fleet."""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Sequence
from typing import Protocol

from boxkeep_server.model.machines import MAIN
from boxkeep_server.model.node_api import (
    BaseKind,
    Claim,
    ClaimHint,
    ClaimWish,
    Leaks,
    NodeFacts,
    Release,
    Role,
    Snapshot,
    SnapshotBases,
)


class EngineError(Exception):
    """A node did not do what it was asked."""


class NodeAway(EngineError):
    """No node answered; nothing is known of what was asked. May be repeated."""


class PlacementLate(NodeAway):
    """A machine did not come up in time, and nothing of it is left; the node may do better when asked again."""


class NoRoom(EngineError):
    """No node has a free slot now."""


class Unsupported(EngineError):
    """No node can do what is asked; the sentence says what."""


class AlreadyReleased(EngineError):
    """This epoch was released before; it can have no machine any more."""


class PlacementFailed(EngineError):
    """A machine could not be made."""


class SnapshotUnfit(EngineError):
    """What was kept is not there or damaged, or no machine can go on from it on the node that was tried; it stays as it
    is. `snapshot` is what that node calls it."""

    def __init__(self, sentence: str, node: str | None = None, snapshot: str | None = None) -> None:
        super().__init__(sentence)
        self.node = node
        self.snapshot = snapshot


class NotPaused(EngineError):
    """A machine was not kept, and goes on. `busy`: it was to be only while nothing runs; `full`: there is no room."""

    def __init__(self, sentence: str, *, busy: bool = False, full: bool = False) -> None:
        super().__init__(sentence)
        self.busy = busy
        self.full = full


class MachineGone(EngineError):
    """There is no machine that could be kept, and nothing is kept of it."""


class Engine(Protocol):
    """Places sandboxes on nodes. Every call may be repeated with the same effect."""

    async def place(self, wish: ClaimWish) -> tuple[str, Claim]:
        """The node and the machine bound to this sandbox, epoch and role; the same one when asked again.

        Raises:
            NodeAway, PlacementLate, NoRoom, Unsupported, AlreadyReleased, PlacementFailed, SnapshotUnfit
        """

    async def pause(
        self, node: str, sandbox: str, epoch: int, role: Role = MAIN, *, if_idle: bool, or_files: bool
    ) -> Snapshot:
        """Have a machine kept, durably, and then gone; the same snapshot when asked again. With `or_files` memory that
        cannot be written is given up, and the snapshot says so.

        Raises:
            NodeAway, NotPaused, MachineGone
        """

    async def checkpoint(
        self, node: str, sandbox: str, epoch: int, role: Role = MAIN, *, checkpoint: str, memory: bool
    ) -> Snapshot:
        """Have what there is of a machine kept as that of its role at a checkpoint, durably, while it goes on; of a
        dead one its files, as long as its node has them. The same snapshot when asked again.

        Raises:
            NodeAway, NotPaused, MachineGone
        """

    async def forget(self, node: str, checkpoint: str) -> None:
        """Have a checkpoint gone, with what it has of each machine.

        Raises:
            NodeAway
        """

    async def bases_of(self, node: str, snapshot: str) -> SnapshotBases:
        """What a node's snapshot is made over: it can be gone on from only where that is held.

        Raises:
            NodeAway
            SnapshotUnfit: the node has no whole one.
        """

    def copy(self, node: str, snapshot: str, key: bytes) -> AsyncGenerator[bytes, None]:
        """A node's snapshot as bytes that nobody can read or change without the key. Close it when done.

        Raises:
            NodeAway, SnapshotUnfit: at any chunk; what came until then is not the whole.
        """

    async def bring(self, node: str, snapshot: str, key: bytes, chunks: AsyncIterable[bytes]) -> None:
        """Have a node hold the snapshot of which this is the copy; one that it has undamaged stays.

        Raises:
            NodeAway
            SnapshotUnfit: the copy cannot be used.
            NoRoom: it does not fit there.
            Exception: what `chunks` raises.
        """

    async def hold_base(self, node: str, kind: BaseKind, digest: str) -> bool:
        """Whether a node holds an image or a guest.

        Raises:
            NodeAway
        """

    def base(self, node: str, kind: BaseKind, digest: str) -> AsyncGenerator[bytes, None]:
        """An image or a guest of a node as bytes. Close it when done.

        Raises:
            NodeAway, SnapshotUnfit: at any chunk; what came until then is not the whole.
        """

    async def bring_base(self, node: str, kind: BaseKind, digest: str, chunks: AsyncIterable[bytes]) -> None:
        """Have a node hold an image or a guest.

        Raises:
            NodeAway
            SnapshotUnfit: what came is not what its name says.
            Exception: what `chunks` raises.
        """

    async def snapshots(self) -> dict[str, Sequence[Snapshot]]:
        """Every snapshot of every node, by node.

        Raises:
            NodeAway
        """

    async def discard(self, node: str, sandbox: str, through: int, role: Role = MAIN) -> None:
        """Have every snapshot of a sandbox's role up to that epoch gone.

        Raises:
            NodeAway
        """

    async def release(self, node: str | None, sandbox: str, epoch: int, role: Role = MAIN) -> Release:
        """Have everything of a sandbox's role in an epoch gone. What was never there is gone already.

        Raises:
            NodeAway
        """

    async def claim(self, node: str, sandbox: str, epoch: int, role: Role = MAIN) -> Claim | None:
        """What the node knows of a sandbox's machine now.

        Raises:
            NodeAway
        """

    async def extend(self, node: str, sandbox: str, epoch: int, not_after: int, role: Role = MAIN) -> None:
        """Tell the node a new end time (epoch ms); without effect where there is no such machine.

        Raises:
            NodeAway
        """

    async def claims(self) -> dict[str, Sequence[Claim]]:
        """Every claim of every node, by node.

        Raises:
            NodeAway: not all answered; an incomplete list would look like deaths.
        """

    async def nodes(self) -> Sequence[NodeFacts]:
        """What the nodes are and how full they are.

        Raises:
            NodeAway
        """

    def watch(self) -> AsyncIterator[ClaimHint]:
        """Hints that claims have changed; ends when the node goes away."""

    async def leaks(self) -> Leaks:
        """What belongs to nobody on any node.

        Raises:
            NodeAway
        """
