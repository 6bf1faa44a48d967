"""A stream of messages, each in its place, compressed and encrypted: libsodium's secretstream over zstd's frames."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable
from typing import Final

import zstandard
from nacl.bindings import crypto_secretstream as sodium
from nacl.exceptions import CryptoError

MOST: Final = 1 << 20
"""The most bytes of a message."""
KEY_BYTES: Final = sodium.crypto_secretstream_xchacha20poly1305_KEYBYTES
_MAGIC: Final = b"boxkeep copy 1\n"
_HEAD_BYTES: Final = len(_MAGIC) + sodium.crypto_secretstream_xchacha20poly1305_HEADERBYTES
_LENGTH_BYTES: Final = 4
_MORE: Final = sodium.crypto_secretstream_xchacha20poly1305_TAG_MESSAGE
_LAST: Final = sodium.crypto_secretstream_xchacha20poly1305_TAG_FINAL
_SEALED_MOST: Final = 2 * MOST
_LEVEL: Final = 1


class StreamBroken(Exception):
    """The stream ends too early or too late, was changed, or belongs to another key."""


async def sealed(key: bytes, messages: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """The bytes of a stream that carries these messages, of at most `MOST` bytes each; `key` has `KEY_BYTES`."""
    state = sodium.crypto_secretstream_xchacha20poly1305_state()
    yield _MAGIC + sodium.crypto_secretstream_xchacha20poly1305_init_push(state, key)
    async for message in messages:
        yield await asyncio.to_thread(_seal, state, message, _MORE)
    yield _seal(state, b"", _LAST)


async def opened(key: bytes, chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """The messages of a stream, whose bytes come in any chunks; none of them is anything but what was sealed.

    Raises:
        StreamBroken: also behind the last message, when more follows or there was no end.
    """
    state = sodium.crypto_secretstream_xchacha20poly1305_state()
    reader = _Reader(chunks)
    head = await reader.exactly(_HEAD_BYTES)
    if not head.startswith(_MAGIC):
        raise StreamBroken("it is no copy of a snapshot")
    sodium.crypto_secretstream_xchacha20poly1305_init_pull(state, head[len(_MAGIC) :], key)
    while True:
        length = int.from_bytes(await reader.exactly(_LENGTH_BYTES), "big")
        if length > _SEALED_MOST:
            raise StreamBroken("a message of it is too long")
        message, tag = await asyncio.to_thread(_open, state, await reader.exactly(length))
        if tag == _LAST:
            break
        yield message
    if not await reader.at_end():
        raise StreamBroken("it goes on behind its end")


def _seal(state: sodium.crypto_secretstream_xchacha20poly1305_state, message: bytes, tag: int) -> bytes:
    packed = zstandard.ZstdCompressor(level=_LEVEL).compress(message)
    ciphertext: bytes = sodium.crypto_secretstream_xchacha20poly1305_push(state, packed, None, tag)
    return len(ciphertext).to_bytes(_LENGTH_BYTES, "big") + ciphertext


def _open(state: sodium.crypto_secretstream_xchacha20poly1305_state, ciphertext: bytes) -> tuple[bytes, int]:
    try:
        packed, tag = sodium.crypto_secretstream_xchacha20poly1305_pull(state, ciphertext)
        if zstandard.frame_content_size(packed) > MOST:
            raise StreamBroken("a message of it is too long")
        return zstandard.ZstdDecompressor().decompress(packed, max_output_size=MOST), tag
    except (CryptoError, ValueError, zstandard.ZstdError) as error:
        raise StreamBroken("it was changed, or sealed with another key") from error


class _Reader:
    """Takes chunks apart into pieces of asked lengths."""

    def __init__(self, chunks: AsyncIterable[bytes]) -> None:
        self._chunks = aiter(chunks)
        self._buffer = bytearray()

    async def exactly(self, length: int) -> bytes:
        while len(self._buffer) < length:
            chunk = await anext(self._chunks, None)
            if chunk is None:
                raise StreamBroken("it ends too early")
            self._buffer += chunk
        piece = bytes(self._buffer[:length])
        del self._buffer[:length]
        return piece

    async def at_end(self) -> bool:
        return not self._buffer and await anext(self._chunks, None) is None
