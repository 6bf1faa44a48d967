"""What a blob store promises, the same for a directory and for S3, and what can go wrong with one."""

import hashlib
import hmac
import re
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from boxkeep_server.model.errors import Conflict, NotFound, Unavailable

SMALL: Final = 8 << 20
"""The most bytes that a put with `absent` takes: larger ones go in parts, which no store puts conditionally."""

_LONGEST: Final = 240
_PLAIN: Final = re.compile(rb"[^A-Za-z0-9._/-]")


class BlobNotFound(NotFound):
    """There is no blob under this key."""

    def __init__(self) -> None:
        super().__init__("There is no such stored file")


class BlobExists(Conflict):
    """A blob was to be put only if absent, and there is one."""

    def __init__(self) -> None:
        super().__init__("There is such a stored file already")


class BlobDamaged(Unavailable):
    """What came is not what was said to come."""

    def __init__(self) -> None:
        super().__init__("The stored file is damaged")


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob as it lies in the store: its size in bytes, and when it was put, epoch ms."""

    key: str
    size: int
    put_at: int


@dataclass(frozen=True, slots=True)
class Written:
    """What was put: its size in bytes and its SHA-256 in hexadecimals."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class BlobPage:
    """Some blobs in the store's own order; `cursor` goes on behind them, None at the end."""

    items: Sequence[Blob]
    cursor: str | None


class Blobs(Protocol):
    """A store of blobs. Keys are any text without empty, `.` and `..` segments; the first is the organisation's id.

    Every call ends: with what it promises, or with `Unavailable` or `TimedOut` where the store is away or slow.
    """

    async def put(
        self, key: str, chunks: AsyncIterable[bytes], *, sha256: str | None = None, absent: bool = False
    ) -> Written:
        """Write a blob, durable when this returns; a reader sees all of it or nothing.

        Raises:
            BlobExists: `absent` and there is one.
            BlobDamaged: the bytes have another SHA-256 than was said.
            ValueError: `absent` and more than `SMALL` bytes.
            Exception: what `chunks` raises; then nothing was put.
        """

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        """A part of a blob, by default all. Close it when done.

        Raises:
            BlobNotFound: there is none.
            BlobDamaged: while it is read, where the store gives less than it has to.
        """

    async def stat(self, key: str) -> Blob | None:
        """What is known of a blob, None where there is none."""

    async def delete(self, key: str) -> None:
        """Delete a blob; one that is not there is deleted already."""

    async def list(self, prefix: str, cursor: str | None = None, limit: int = 1000) -> BlobPage:
        """The blobs whose keys begin with the segments of `prefix`, a page at a time."""

    async def presign(self, key: str, seconds: int) -> str | None:
        """A URL by which anybody may read a blob for so long, None where the store can't."""


class Digest:
    """Passes bytes on while it counts and hashes them, and fails at their end where they are not the promised ones."""

    def __init__(self, chunks: AsyncIterable[bytes], sha256: str | None = None, size: int | None = None) -> None:
        self._chunks = chunks
        self._wanted = (sha256, size)
        self._hash = hashlib.sha256()
        self._size = 0
        self.fault: BaseException | None = None

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        """The bytes.

        Raises:
            BlobDamaged: they are not those that were promised.
        """
        try:
            async for chunk in self._chunks:
                self._hash.update(chunk)
                self._size += len(chunk)
                yield bytes(chunk)
            self._check()
        except BaseException as fault:
            self.fault = fault
            raise

    @property
    def written(self) -> Written:
        """What has passed."""
        return Written(self._size, self._hash.hexdigest())

    def _check(self) -> None:
        sha256, size = self._wanted
        if sha256 is not None and not hmac.compare_digest(sha256, self._hash.hexdigest()):
            raise BlobDamaged
        if size is not None and size != self._size:
            raise BlobDamaged


def encoded(key: str) -> str:
    """A key in the characters that every store takes; `decoded` undoes it.

    Raises:
        ValueError: it is none.
    """
    if any(segment in ("", ".", "..") for segment in key.split("/")):
        raise ValueError("A blob's key has no empty, `.` or `..` segments")
    safe = _PLAIN.sub(lambda found: b"=%02X" % found[0][0], key.encode("utf-8", "surrogateescape")).decode("ascii")
    if len(safe) + 2 * safe.count("/") > _LONGEST:
        raise ValueError("A blob's key is too long")
    return safe


def decoded(safe: str) -> str:
    """The key that was encoded."""
    plain = re.sub(rb"=([0-9A-F]{2})", lambda found: bytes.fromhex(found[1].decode()), safe.encode())
    return plain.decode("utf-8", "surrogateescape")
