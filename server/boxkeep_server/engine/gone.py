"""The engine of an instance whose machines are all gone: there is nothing to place on, and nothing to release."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Sequence

from boxkeep_server.engine.interface import NodeAway
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


class GoneEngine:
    """Answers for a node that was taken down."""

    async def place(self, wish: ClaimWish) -> tuple[str, Claim]:
        """See `Engine.place`."""
        raise NodeAway("the node was taken down")

    async def release(self, node: str | None, sandbox: str, epoch: int, role: Role = MAIN) -> Release:
        """See `Engine.release`: all is gone already."""
        return Release()

    async def claim(self, node: str, sandbox: str, epoch: int, role: Role = MAIN) -> Claim | None:
        """See `Engine.claim`."""
        return None

    async def extend(self, node: str, sandbox: str, epoch: int, not_after: int, role: Role = MAIN) -> None:
        """See `Engine.extend`."""

    async def claims(self) -> dict[str, Sequence[Claim]]:
        """See `Engine.claims`."""
        raise NodeAway("the node was taken down")

    async def pause(
        self, node: str, sandbox: str, epoch: int, role: Role = MAIN, *, if_idle: bool, or_files: bool
    ) -> Snapshot:
        """See `Engine.pause`."""
        raise NodeAway("the node was taken down")

    async def checkpoint(
        self, node: str, sandbox: str, epoch: int, role: Role = MAIN, *, checkpoint: str, memory: bool
    ) -> Snapshot:
        """See `Engine.checkpoint`."""
        raise NodeAway("the node was taken down")

    async def forget(self, node: str, checkpoint: str) -> None:
        """See `Engine.forget`: what is left is collected once there is a node again."""

    async def bases_of(self, node: str, snapshot: str) -> SnapshotBases:
        """See `Engine.bases_of`."""
        raise NodeAway("the node was taken down")

    async def copy(self, node: str, snapshot: str, key: bytes) -> AsyncGenerator[bytes, None]:
        """See `Engine.copy`."""
        raise NodeAway("the node was taken down")
        yield b""

    async def bring(self, node: str, snapshot: str, key: bytes, chunks: AsyncIterable[bytes]) -> None:
        """See `Engine.bring`."""
        raise NodeAway("the node was taken down")

    async def hold_base(self, node: str, kind: BaseKind, digest: str) -> bool:
        """See `Engine.hold_base`."""
        raise NodeAway("the node was taken down")

    async def base(self, node: str, kind: BaseKind, digest: str) -> AsyncGenerator[bytes, None]:
        """See `Engine.base`."""
        raise NodeAway("the node was taken down")
        yield b""

    async def bring_base(self, node: str, kind: BaseKind, digest: str, chunks: AsyncIterable[bytes]) -> None:
        """See `Engine.bring_base`."""
        raise NodeAway("the node was taken down")

    async def snapshots(self) -> dict[str, Sequence[Snapshot]]:
        """See `Engine.snapshots`."""
        raise NodeAway("the node was taken down")

    async def discard(self, node: str, sandbox: str, through: int, role: Role = MAIN) -> None:
        """See `Engine.discard`: what is left is collected once there is a node again."""

    async def nodes(self) -> Sequence[NodeFacts]:
        """See `Engine.nodes`."""
        raise NodeAway("the node was taken down")

    async def watch(self) -> AsyncIterator[ClaimHint]:
        """See `Engine.watch`: nothing happens any more."""
        await asyncio.Event().wait()
        yield ClaimHint()

    async def leaks(self) -> Leaks:
        """See `Engine.leaks`."""
        return Leaks(leaks=())
