"""Blobs in S3 and its kin, by obstore: streamed in parts, put conditionally by If-None-Match, every request in time."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

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
from boxkeep_server.model.errors import TimedOut, Unavailable

PART: Final = 8 << 20
PARTS_AT_ONCE: Final = 4
STEP: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where blobs lie. What is None comes from the standard AWS environment; `timeout_s` bounds every request."""

    name: str
    prefix: str | None = None
    endpoint: str | None = None
    region: str | None = None
    path_style: bool = True
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    timeout_s: float = 30.0


class S3Blobs:
    """Blobs in a bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self._timeout_s = bucket.timeout_s
        self._store = _store(bucket)

    async def put(
        self, key: str, chunks: AsyncIterable[bytes], *, sha256: str | None = None, absent: bool = False
    ) -> Written:
        """As the interface says.

        Raises:
            BlobDamaged, BlobExists, TimedOut, Unavailable: as the interface says.
        """
        digest = Digest(chunks, sha256)
        with _translated(digest):
            if absent:
                async with asyncio.timeout(self._timeout_s * 2):
                    await obstore.put_async(
                        self._store, encoded(key), await _small(digest), mode="create", use_multipart=False
                    )
            else:
                await obstore.put_async(
                    self._store, encoded(key), aiter(digest), chunk_size=PART, max_concurrency=PARTS_AT_ONCE
                )
        return digest.written

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        """As the interface says.

        Raises:
            BlobNotFound, TimedOut, Unavailable: as the interface says.
        """
        if length == 0:
            if await self.stat(key) is None:
                raise BlobNotFound
            return _nothing()
        wanted: Any = {"offset": offset} if length is None else (offset, offset + length)
        whole = offset == 0 and length is None
        with _translated():
            async with asyncio.timeout(self._timeout_s * 2):
                found = await obstore.get_async(self._store, encoded(key), options={} if whole else {"range": wanted})
        first, end = found.range
        return self._read(found, end - first if length is None else length)

    async def _read(self, found: Any, length: int) -> AsyncGenerator[bytes, None]:
        chunks = aiter(found.stream(min_chunk_size=STEP))
        while length > 0:
            with _translated():
                async with asyncio.timeout(self._timeout_s):
                    chunk = await anext(chunks, None)
            if chunk is None or len(chunk) > length:
                raise BlobDamaged
            length -= len(chunk)
            yield bytes(chunk)

    async def stat(self, key: str) -> Blob | None:
        """As the interface says."""
        try:
            with _translated():
                async with asyncio.timeout(self._timeout_s * 2):
                    return _blob(await obstore.head_async(self._store, encoded(key)))
        except BlobNotFound:
            return None

    async def delete(self, key: str) -> None:
        """As the interface says."""
        try:
            with _translated():
                async with asyncio.timeout(self._timeout_s * 2):
                    await obstore.delete_async(self._store, encoded(key))
        except BlobNotFound:
            return

    async def list(self, prefix: str, cursor: str | None = None, limit: int = 1000) -> BlobPage:
        """As the interface says."""
        behind = None if cursor is None else encoded(cursor)
        below = encoded(prefix.rstrip("/")) if prefix.rstrip("/") else None
        pages = obstore.list(self._store, below, offset=behind, chunk_size=limit)
        with _translated():
            async with asyncio.timeout(self._timeout_s * 2):
                page: Sequence[Any] = await anext(aiter(pages), [])
        items = [_blob(meta) for meta in page]
        return BlobPage(items, items[-1].key if len(items) >= limit else None)

    async def presign(self, key: str, seconds: int) -> str | None:
        """As the interface says."""
        with _translated():
            return await obstore.sign_async(self._store, "GET", encoded(key), timedelta(seconds=seconds))


def _store(bucket: Bucket) -> S3Store:
    given = {
        "endpoint": bucket.endpoint,
        "region": bucket.region,
        "access_key_id": bucket.access_key_id,
        "secret_access_key": bucket.secret_access_key,
    }
    options: Any = {name: value for name, value in given.items() if value is not None}
    plain = (bucket.endpoint or "").startswith("http://")
    limit = timedelta(seconds=bucket.timeout_s)
    return S3Store(
        bucket.name,
        prefix=bucket.prefix,
        virtual_hosted_style_request=not bucket.path_style,
        client_options={"allow_http": plain, "timeout": limit, "connect_timeout": min(limit, timedelta(seconds=5))},
        retry_config={"max_retries": 2, "retry_timeout": limit},
        **options,
    )


async def _small(digest: Digest) -> bytes:
    data = bytearray()
    async for chunk in digest:
        data += chunk
        if len(data) > SMALL:
            raise ValueError("Too large to be put only if absent")
    return bytes(data)


async def _nothing() -> AsyncGenerator[bytes, None]:
    none: tuple[bytes, ...] = ()
    for nothing in none:
        yield nothing


def _blob(meta: Any) -> Blob:
    return Blob(decoded(meta["path"]), meta["size"], int(meta["last_modified"].timestamp() * 1000))


@contextmanager
def _translated(source: Digest | None = None) -> Iterator[None]:
    """Within it the store's faults are those of the model; what broke the source of a put stays what it is.

    Raises:
        BlobExists, BlobNotFound, TimedOut, Unavailable: for the store's faults.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise BlobNotFound from error
    except AlreadyExistsError as error:
        raise BlobExists from error
    except TimeoutError as late:
        raise TimedOut("The store of files did not answer in time") from late
    except BaseError as fault:
        if source is not None and source.fault is not None:
            raise source.fault from fault
        raise Unavailable("The store of files is away") from fault
