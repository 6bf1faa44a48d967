"""Copies of snapshots: from their nodes to the store of blobs, encrypted on the way, and back to any node."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

from boxkeep_server.blobs.interface import Blobs
from boxkeep_server.engine.interface import Engine, SnapshotUnfit
from boxkeep_server.model.copies import Copied, Copy, base_blob
from boxkeep_server.model.images import Layers, read_layers
from boxkeep_server.model.node_api import BaseKind, SnapshotBases
from boxkeep_server.store import copies
from boxkeep_server.store.database import Database

_log = logging.getLogger(__name__)

_SMALL: Final = 64 << 10


class Copies:
    """The use cases. `derive` gives the key of a purpose: each copy has its own, made of what it is a copy of."""

    def __init__(
        self,
        database: Database,
        engine: Engine,
        blobs: Blobs,
        derive: Callable[[str], bytes],
        now_ms: Callable[[], int],
    ) -> None:
        self._database = database
        self._engine = engine
        self._blobs = blobs
        self._derive = derive
        self._now_ms = now_ms
        self._bringing: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def store(self, of: Copied, node: str) -> bool:
        """Copy a node's snapshot into the store; False if nobody wants it any more when it is there.

        Raises:
            EngineError: the node is away, or has no such snapshot.
            Unavailable, TimedOut, NoSpace: the store is away, slow or full.
        """
        bases = await self._engine.bases_of(node, of.name)
        async with self._database.writing() as connection:
            await copies.begin(connection, of, bases, self._now_ms())
        await self._store_bases(node, bases)
        async with aclosing(self._engine.copy(node, of.name, self._key(of))) as chunks:
            written = await self._blobs.put(of.blob, chunks)
        async with self._database.writing() as connection:
            return await copies.stored(connection, of, written.size, self._now_ms())

    async def bring(self, name: str, node: str) -> bool:
        """Have a node hold a snapshot, and what it is made over, from the store; False if the store has no copy of it.

        Raises:
            NodeAway, NoRoom: the node is away or full.
            SnapshotUnfit, BlobNotFound, BlobDamaged: the copy cannot be used.
            Unavailable, TimedOut: the store is away or slow.
        """
        async with self._database.reading() as connection:
            copy = await copies.find(connection, name)
        if copy is None:
            return False
        task = self._bringing.get((name, node))
        if task is None:
            task = self._bringing[name, node] = asyncio.create_task(self._bring(copy, node))
            task.add_done_callback(lambda _: self._bringing.pop((name, node)))
        await asyncio.shield(task)
        return True

    async def remove(self, of: Copied) -> None:
        """Delete a copy from the store.

        Raises:
            Unavailable, TimedOut: the store is away or slow; the copy is still known.
        """
        await self._blobs.delete(of.blob)
        async with self._database.writing() as connection:
            await copies.forget(connection, of)

    async def close(self) -> None:
        """Cancel what is on its way to nodes."""
        for task in (tasks := list(self._bringing.values())):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _key(self, of: Copied) -> bytes:
        return self._derive(f"copy of a snapshot {of.organisation} {of.name}")

    async def _store_bases(self, node: str, bases: SnapshotBases) -> None:
        """Store what a snapshot is made over; an image after its layers, so that whatever image is there is whole."""
        image = base_blob("image", bases.image)
        if await self._blobs.stat(image) is None:
            text = await _small(self._engine.base(node, "image", bases.image))
            for layer in _layers(text).digests:
                await self._store_base(node, "layer", layer)
            await self._blobs.put(image, _once(text))
        if bases.guest is not None:
            await self._store_base(node, "guest", bases.guest)

    async def _store_base(self, node: str, kind: BaseKind, digest: str) -> None:
        blob = base_blob(kind, digest)
        if await self._blobs.stat(blob) is None:
            async with aclosing(self._engine.base(node, kind, digest)) as chunks:
                await self._blobs.put(blob, chunks)

    async def _bring_bases(self, node: str, bases: SnapshotBases) -> None:
        if not await self._engine.hold_base(node, "image", bases.image):
            text = await _small(await self._blobs.get(base_blob("image", bases.image)))
            for layer in _layers(text).digests:
                await self._bring_base(node, "layer", layer)
            await self._bring_base(node, "image", bases.image)
        if bases.guest is not None:
            await self._bring_base(node, "guest", bases.guest)

    async def _bring_base(self, node: str, kind: BaseKind, digest: str) -> None:
        if not await self._engine.hold_base(node, kind, digest):
            async with aclosing(await self._blobs.get(base_blob(kind, digest))) as chunks:
                await self._engine.bring_base(node, kind, digest, chunks)

    async def _bring(self, copy: Copy, node: str) -> None:
        await self._bring_bases(node, copy.bases)
        async with aclosing(await self._blobs.get(copy.of.blob)) as chunks:
            await self._engine.bring(node, copy.of.name, self._key(copy.of), chunks)
        _log.info("snapshot %s was brought to node %s", copy.of.name, node)


def _layers(text: bytes) -> Layers:
    try:
        return read_layers(text)
    except ValueError as error:
        raise SnapshotUnfit("The image under the snapshot is none") from error


async def _small(chunks: AsyncGenerator[bytes, None]) -> bytes:
    found = b""
    async with aclosing(chunks):
        async for chunk in chunks:
            found += chunk
            if len(found) > _SMALL:
                raise SnapshotUnfit("The image under the snapshot is none")
    return found


async def _once(content: bytes) -> AsyncGenerator[bytes, None]:
    yield content
