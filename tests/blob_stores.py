"""Stores of blobs for tests: all in a dict, away or changing bytes when a test says so."""

from collections.abc import AsyncGenerator, AsyncIterable, Callable

from boxkeep_server.blobs.interface import Blob, BlobExists, BlobNotFound, BlobPage, Digest, Written
from boxkeep_server.model.errors import Unavailable


class MemoryBlobs:
    """A store that does what it is asked, at once; while `away` it does nothing."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self.now_ms = now_ms
        self.held: dict[str, tuple[bytes, int]] = {}
        self.away = False

    async def put(
        self, key: str, chunks: AsyncIterable[bytes], *, sha256: str | None = None, absent: bool = False
    ) -> Written:
        self._check()
        if absent and key in self.held:
            raise BlobExists
        digest = Digest(chunks, sha256)
        self.held[key] = (b"".join([chunk async for chunk in digest]), self.now_ms())
        return digest.written

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        self._check()
        if key not in self.held:
            raise BlobNotFound
        content = self.held[key][0][offset : None if length is None else offset + length]

        async def chunks() -> AsyncGenerator[bytes, None]:
            for at in range(0, len(content), 7):
                self._check()
                yield content[at : at + 7]

        return chunks()

    async def stat(self, key: str) -> Blob | None:
        self._check()
        return Blob(key, len(self.held[key][0]), self.held[key][1]) if key in self.held else None

    async def delete(self, key: str) -> None:
        self._check()
        self.held.pop(key, None)

    async def list(self, prefix: str, cursor: str | None = None, limit: int = 1000) -> BlobPage:
        self._check()
        found = [Blob(key, len(held), at) for key, (held, at) in self.held.items() if key.startswith(prefix)]
        return BlobPage(found, None)

    async def presign(self, key: str, seconds: int) -> str | None:
        return None

    def _check(self) -> None:
        if self.away:
            raise Unavailable("The store of files is away")
