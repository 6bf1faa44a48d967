"""The engine of one machine: a single node behind a Unix socket."""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import TypeVar

from boxkeep_server.engine.interface import (
    AlreadyReleased,
    MachineGone,
    NodeAway,
    NoRoom,
    NotPaused,
    PlacementFailed,
    PlacementLate,
    SnapshotUnfit,
    Unsupported,
)
from boxkeep_server.model.machines import MAIN, Key
from boxkeep_server.model.node_api import (
    BaseKind,
    Claim,
    ClaimHint,
    ClaimWish,
    Leaks,
    Message,
    NodeFacts,
    Release,
    Role,
    Snapshot,
    SnapshotBases,
)
from boxkeep_server.nodes.client import NodeClient, NodeRefused, NodeUnreachable

_REFUSALS = {
    "no_room": NoRoom,
    "unsupported": Unsupported,
    "bad_request": Unsupported,
    "released": AlreadyReleased,
    "conflict": AlreadyReleased,
    "not_ready": PlacementLate,
    "unfit": SnapshotUnfit,
}


M = TypeVar("M", bound=Message)


class LocalEngine:
    """Places everything on the one node, which goes by the host's clock: `jump_ms` is what that is ahead of ours."""

    def __init__(self, node: NodeClient, jump_ms: Callable[[], int] = lambda: 0) -> None:
        self._node = node
        self._jump_ms = jump_ms
        self._id: str | None = None

    async def place(self, wish: ClaimWish) -> tuple[str, Claim]:
        """See `Engine.place`."""
        node = self._id or (await self.nodes())[0].node_id
        try:
            with _translated():
                return node, self._ours(await self._node.place(_moved(wish, self._jump_ms(), "not_after")))
        except SnapshotUnfit as unfit:
            unfit.node, unfit.snapshot = node, wish.origin
            raise

    async def release(self, node: str | None, sandbox: str, epoch: int, role: Role = MAIN) -> Release:
        """See `Engine.release`."""
        with _translated():
            released = await self._node.release(Key(sandbox, epoch, role))
            return _moved(released, -self._jump_ms(), "last_seen_at", "died_at")

    def _ours(self, claim: Claim) -> Claim:
        return _moved(claim, -self._jump_ms(), "claimed_at", "not_after", "last_seen_at", "died_at")

    async def claim(self, node: str, sandbox: str, epoch: int, role: Role = MAIN) -> Claim | None:
        """See `Engine.claim`."""
        try:
            with _translated():
                return self._ours(await self._node.claim(Key(sandbox, epoch, role)))
        except (PlacementFailed, AlreadyReleased):
            return None

    async def extend(self, node: str, sandbox: str, epoch: int, not_after: int, role: Role = MAIN) -> None:
        """See `Engine.extend`."""
        try:
            with _translated():
                await self._node.extend(Key(sandbox, epoch, role), not_after + self._jump_ms())
        except (PlacementFailed, AlreadyReleased):
            return  # it is gone, and `observe` will see that

    async def claims(self) -> dict[str, Sequence[Claim]]:
        """See `Engine.claims`."""
        node = self._id or (await self.nodes())[0].node_id
        with _translated():
            return {node: tuple(map(self._ours, await self._node.claims()))}

    async def pause(
        self, node: str, sandbox: str, epoch: int, role: Role = MAIN, *, if_idle: bool, or_files: bool
    ) -> Snapshot:
        """See `Engine.pause`."""
        with _keeping():
            return await self._node.pause(Key(sandbox, epoch, role), if_idle=if_idle, or_files=or_files)

    async def checkpoint(
        self, node: str, sandbox: str, epoch: int, role: Role = MAIN, *, checkpoint: str, memory: bool
    ) -> Snapshot:
        """See `Engine.checkpoint`."""
        with _keeping():
            return await self._node.checkpoint(Key(sandbox, epoch, role), checkpoint, memory=memory)

    async def forget(self, node: str, checkpoint: str) -> None:
        """See `Engine.forget`."""
        with _translated():
            await self._node.forget(checkpoint)

    async def bases_of(self, node: str, snapshot: str) -> SnapshotBases:
        """See `Engine.bases_of`."""
        with _copying():
            return await self._node.bases_of(snapshot)

    async def copy(self, node: str, snapshot: str, key: bytes) -> AsyncGenerator[bytes, None]:
        """See `Engine.copy`."""
        with _copying():
            async with aclosing(self._node.copy(snapshot, key)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def bring(self, node: str, snapshot: str, key: bytes, chunks: AsyncIterable[bytes]) -> None:
        """See `Engine.bring`."""
        with _copying():
            await self._node.bring(snapshot, key, chunks)

    async def hold_base(self, node: str, kind: BaseKind, digest: str) -> bool:
        """See `Engine.hold_base`."""
        with _copying():
            return await self._node.hold_base(kind, digest)

    async def base(self, node: str, kind: BaseKind, digest: str) -> AsyncGenerator[bytes, None]:
        """See `Engine.base`."""
        with _copying():
            async with aclosing(self._node.base(kind, digest)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def bring_base(self, node: str, kind: BaseKind, digest: str, chunks: AsyncIterable[bytes]) -> None:
        """See `Engine.bring_base`."""
        with _copying():
            await self._node.bring_base(kind, digest, chunks)

    async def snapshots(self) -> dict[str, Sequence[Snapshot]]:
        """See `Engine.snapshots`."""
        node = self._id or (await self.nodes())[0].node_id
        with _translated():
            return {node: await self._node.snapshots()}

    async def discard(self, node: str, sandbox: str, through: int, role: Role = MAIN) -> None:
        """See `Engine.discard`."""
        with _translated():
            await self._node.discard(Key(sandbox, through, role))

    async def nodes(self) -> Sequence[NodeFacts]:
        """See `Engine.nodes`."""
        with _translated():
            facts = await self._node.facts()
        self._id = facts.node_id
        return [facts]

    async def watch(self) -> AsyncIterator[ClaimHint]:
        """See `Engine.watch`."""
        try:
            async for hint in self._node.watch():
                yield hint
        except NodeUnreachable:
            return

    async def leaks(self) -> Leaks:
        """See `Engine.leaks`."""
        with _translated():
            return await self._node.leaks()


@contextmanager
def _keeping() -> Iterator[None]:
    try:
        yield
    except NodeUnreachable as error:
        raise NodeAway(str(error)) from error
    except NodeRefused as error:
        if error.code in ("not_found", "conflict", "unfit"):
            raise MachineGone(str(error)) from error
        raise NotPaused(str(error), busy=error.code == "busy", full=error.code == "no_space") from error


@contextmanager
def _copying() -> Iterator[None]:
    try:
        yield
    except NodeUnreachable as error:
        raise NodeAway(str(error)) from error
    except NodeRefused as error:
        if error.code == "not_ready":
            raise NodeAway(str(error)) from error
        raise (NoRoom if error.code == "no_space" else SnapshotUnfit)(str(error)) from error


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except NodeUnreachable as error:
        raise NodeAway(str(error)) from error
    except NodeRefused as error:
        raise _REFUSALS.get(error.code, PlacementFailed)(str(error)) from error


def _moved(message: M, by_ms: int, *moments: str) -> M:
    """A message of which these moments, where they are there, are so much later."""
    if by_ms == 0:
        return message
    return message.model_copy(update={one: at + by_ms for one in moments if (at := getattr(message, one)) is not None})
