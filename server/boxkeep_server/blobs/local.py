"""Blobs in a directory of this machine: written aside, synced and linked into place, so that a reader sees no half."""

import asyncio
import errno
import hashlib
import itertools
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from boxkeep_server.blobs.interface import (
    SMALL,
    Blob,
    BlobDamaged,
    BlobExists,
    BlobNotFound,
    BlobPage,
    Digest,
    Written,
    decoded,
    encoded,
)
from boxkeep_server.model.errors import NoSpace, Unavailable

STEP: Final = 256 * 1024
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class LocalBlobs:
    """Blobs below `root`, in 256 directories by a hash of the key. Whatever was being written at a crash lies in `tmp`
    and is removed when the store is opened again: one process writes here."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._tmp = root / "tmp"
        with _translated():
            self._tmp.mkdir(mode=0o700, parents=True, exist_ok=True)
            for left in self._tmp.iterdir():
                left.unlink()

    async def put(
        self, key: str, chunks: AsyncIterable[bytes], *, sha256: str | None = None, absent: bool = False
    ) -> Written:
        """As the interface says.

        Raises:
            BlobDamaged, BlobExists, NoSpace, Unavailable: as the interface says.
        """
        final = self._place(key)
        digest = Digest(chunks, sha256)
        aside = self._tmp / secrets.token_hex(16)
        try:
            with _translated():
                file = await asyncio.to_thread(_create, aside)
            try:
                async for chunk in digest:
                    if absent and digest.written.size > SMALL:
                        raise ValueError("Too large to be put only if absent")
                    with _translated():
                        await asyncio.to_thread(file.write, chunk)
                with _translated():
                    await asyncio.to_thread(_install, file, aside, final, absent)
            finally:
                await asyncio.to_thread(file.close)
        finally:
            with _translated():
                aside.unlink(missing_ok=True)
        return digest.written

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        """As the interface says.

        Raises:
            BlobNotFound, Unavailable: as the interface says.
        """
        try:
            with _translated():
                file = await asyncio.to_thread(self._place(key).open, "rb", 0)
        except FileNotFoundError as error:
            raise BlobNotFound from error
        size = os.fstat(file.fileno()).st_size
        return _read(file, offset, max(size - offset, 0) if length is None else length)

    async def stat(self, key: str) -> Blob | None:
        """As the interface says."""
        try:
            with _translated():
                found = await asyncio.to_thread(self._place(key).stat)
        except FileNotFoundError:
            return None
        return Blob(key, found.st_size, found.st_mtime_ns // 1_000_000)

    async def delete(self, key: str) -> None:
        """As the interface says."""
        place = self._place(key)
        with _translated():
            await asyncio.to_thread(_remove, place)

    async def list(self, prefix: str, cursor: str | None = None, limit: int = 1000) -> BlobPage:
        """As the interface says."""
        with _translated():
            found = await asyncio.to_thread(self._found, prefix, cursor, limit + 1)
        items = found[:limit]
        return BlobPage(items, items[-1].key if len(found) > limit else None)

    async def presign(self, _key: str, _seconds: int) -> str | None:
        """None: a directory has no URLs."""
        return None

    def _place(self, key: str) -> Path:
        name = encoded(key).replace("/", "=2F")
        return self._root / hashlib.sha256(name.encode()).hexdigest()[:2] / name

    def _found(self, prefix: str, cursor: str | None, most: int) -> Sequence[Blob]:
        behind = None if cursor is None else self._place(cursor)
        names = (place for place in self._places(behind) if _below(decoded(place.name), prefix))
        return tuple(itertools.islice(filter(None, map(_looked_at, names)), most))

    def _places(self, behind: Path | None) -> Iterator[Path]:
        for shard in sorted(path for path in self._root.iterdir() if len(path.name) == 2):
            if behind is None or shard.name >= behind.parent.name:
                yield from (place for place in sorted(shard.iterdir()) if behind is None or place > behind)


def _below(key: str, prefix: str) -> bool:
    wanted = prefix.rstrip("/")
    return not wanted or key == wanted or key.startswith(f"{wanted}/")


def _looked_at(place: Path) -> Blob | None:
    with suppress(FileNotFoundError):  # deleted meanwhile
        found = place.stat()
        return Blob(decoded(place.name), found.st_size, found.st_mtime_ns // 1_000_000)
    return None


def _create(aside: Path) -> BinaryIO:
    return os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _install(file: BinaryIO, aside: Path, final: Path, absent: bool) -> None:
    file.flush()
    os.fsync(file.fileno())
    if not final.parent.exists():
        final.parent.mkdir(mode=0o700, exist_ok=True)
        _sync(final.parent.parent)
    if absent:
        try:
            os.link(aside, final)
        except FileExistsError as error:
            raise BlobExists from error
    else:
        aside.replace(final)
    _sync(final.parent)


def _remove(place: Path) -> None:
    with suppress(FileNotFoundError):
        place.unlink()
        _sync(place.parent)


def _sync(directory: Path) -> None:
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


async def _read(file: BinaryIO, offset: int, length: int) -> AsyncGenerator[bytes, None]:
    try:
        left = length
        while left > 0:
            with _translated():
                chunk = await asyncio.to_thread(os.pread, file.fileno(), min(STEP, left), offset)
            if not chunk:
                raise BlobDamaged
            yield chunk
            offset, left = offset + len(chunk), left - len(chunk)
    finally:
        file.close()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as fault:
        if fault.errno in _FULL:
            raise NoSpace("The store of files is full") from fault
        raise Unavailable("The store of files is away") from fault
