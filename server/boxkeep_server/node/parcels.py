"""A snapshot as messages, and messages as a snapshot: what is known of it, the files of its memory, its disk."""

import asyncio
import os
import re
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from boxkeep_server.node.secretstream import MOST
from boxkeep_server.node.snapshots import Damaged, Manifest
from boxkeep_server.node.threads import in_thread
from boxkeep_server.node.volumes import Receiver, StreamForm, Streams

_MANIFEST: Final = b"M"
_FILE: Final = b"F"
_DISKS: Final[dict[StreamForm, bytes]] = {"btrfs": b"D", "tar": b"T"}
_FORMS: Final = {kind: form for form, kind in _DISKS.items()}
_BYTES: Final = b"."
_BLOCK: Final = MOST // 2
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


async def packed(manifest: Manifest, memory: Path, disk: Path, streams: Streams) -> AsyncGenerator[bytes, None]:
    """The messages of a snapshot, in which its memory comes before its disk. Close it when done.

    Raises:
        StreamFailed, OSError
    """
    yield _MANIFEST + manifest.model_dump_json().encode()
    for name in sorted(manifest.memory):
        yield _FILE + name.encode()
        async with aclosing(_blocks(memory / name)) as blocks:
            async for block in blocks:
                yield _BYTES + block
    yield _DISKS[streams.form]
    async with aclosing(streams.sent(disk)) as stream:
        async for piece in stream:
            for at in range(0, len(piece), _BLOCK):
                yield _BYTES + piece[at : at + _BLOCK]


async def unpacked(
    messages: AsyncIterable[bytes],
    begin: Callable[[Manifest], Path],
    wrote: Callable[[int], None],
    streams: Streams,
) -> Manifest:
    """Write a snapshot that comes as messages into the place that `begin` gives when it is known what comes: memory
    below `memory`, its disk as the tree `DISK`. `wrote` is called with each number of bytes. Nothing is verified.

    Raises:
        Damaged: the messages are not those of a snapshot.
        CannotReceive: the disk is in a form that cannot be taken in here.
        StreamFailed, OSError: it cannot be written.
        Exception: what `begin`, `wrote` and `messages` raise.
    """
    found = aiter(messages)
    manifest = _manifest(await anext(found, b""))
    place = await asyncio.to_thread(begin, manifest)
    async with AsyncExitStack() as open_files:
        sink: Receiver | None = None
        at_disk = False
        async for message in found:
            kind, content = message[:1], message[1:]
            if kind == _BYTES and sink is not None:
                await sink.write(content)
                wrote(len(content))
                continue
            if sink is not None:
                await sink.end()
            if kind == _FILE and not at_disk:
                sink = _Written(place / "memory" / _plain(content))
                open_files.callback(sink.close)
            elif kind in _FORMS and not at_disk:
                sink = await open_files.enter_async_context(streams.receiving(_FORMS[kind], place))
                at_disk = True
            else:
                raise Damaged("it has parts that no snapshot has")
        if sink is None or not at_disk:
            raise Damaged("it has no disk")
        await sink.end()
    return manifest


class _Written:
    """A file that is written from its beginning to its end, and has holes where there are only zeros."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
        self._size = 0

    async def write(self, block: bytes) -> None:
        if block.count(0) != len(block):
            await in_thread(_write_at, self._descriptor, block, self._size)
        self._size += len(block)

    async def end(self) -> None:
        os.ftruncate(self._descriptor, self._size)

    def close(self) -> None:
        os.close(self._descriptor)


def _write_at(descriptor: int, block: bytes, at: int) -> None:
    view = memoryview(block)
    while view:
        count = os.pwrite(descriptor, view, at)
        view, at = view[count:], at + count


async def _blocks(path: Path) -> AsyncGenerator[bytes, None]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        at = 0
        while block := await in_thread(os.pread, descriptor, _BLOCK, at):
            yield block
            at += len(block)
    finally:
        os.close(descriptor)


def _manifest(message: bytes) -> Manifest:
    if message[:1] != _MANIFEST:
        raise Damaged("it does not begin with its manifest")
    try:
        return Manifest.model_validate_json(message[1:])
    except ValidationError as error:
        raise Damaged(f"its manifest cannot be understood ({error.error_count()} faults)") from error


def _plain(name: bytes) -> str:
    text = name.decode("ascii", "replace")
    if not _NAME.fullmatch(text):
        raise Damaged("its memory has a file of an odd name")
    return text
