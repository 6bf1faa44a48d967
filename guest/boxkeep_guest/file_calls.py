"""Operations on files: the wire's side of `files` and `removal`, whose blocking work runs in threads."""

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from functools import partial
from typing import Any, TypeVar

from boxkeep_guest import files, removal
from boxkeep_guest.accounts import Account, find_account
from boxkeep_guest.calls import Call, Op
from boxkeep_guest.fields import Fields

_MODE_MOST = 0o7777
_FLUSHED_BYTES = 32 * 1024 * 1024
_CHUNK = 1024 * 1024
_ENTRIES_A_FRAME = 200
_ENTRIES_BYTES = 256 * 1024
_Result = TypeVar("_Result")


class FileCalls:
    """The handlers."""

    def __init__(self, threads: Executor) -> None:
        self._threads = threads

    def ops(self) -> dict[str, Op]:
        """The operations by name."""
        return {
            "file.stat": Op(self._stat),
            "file.list": Op(self._list),
            "file.read": Op(self._read),
            "file.write": Op(self._write),
            "file.mkdir": Op(self._mkdir),
            "file.move": Op(self._move),
            "file.remove": Op(self._remove),
            "file.chmod": Op(self._chmod),
        }

    async def _away(self, work: Callable[..., _Result], *args: object) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)

    async def _stat(self, call: Call) -> None:
        await call.answer(entry=await self._away(files.describe, call.fields.path()))

    async def _list(self, call: Call) -> None:
        path = call.fields.path()
        found = files.listed(path)
        entries, more = await self._away(_some, found)
        await call.answer(**files.named("path", path))
        while entries:
            await call.json({"entries": entries})
            if not more:
                break
            entries, more = await self._away(_some, found)
        await call.end()

    async def _read(self, call: Call) -> None:
        offset = call.fields.integer("offset", 0)
        length = call.fields.optional_integer("length")
        path = call.fields.path()
        file, entry = await self._away(files.open_regular, path)
        try:
            part: Callable[[int, int], bytes] = partial(os.pread, file)
            if not entry["size"]:
                unsized = await self._away(files.unsized_content, file, path)
                entry["size"], part = len(unsized), lambda most, at: unsized[at : at + most]
            left = max(0, entry["size"] - offset)
            left = left if length is None else min(left, length)
            await call.answer(entry=entry, offset=offset, length=left)
            while left > 0:
                data = await self._away(part, min(_CHUNK, left), offset)
                if not data:  # it was cut short meanwhile: the host sees that bytes are missing
                    break
                await call.data(data)
                offset += len(data)
                left -= len(data)
            await call.end()
        finally:
            os.close(file)

    async def _write(self, call: Call) -> None:
        fields = call.fields
        mode = fields.optional_integer("mode", 0, _MODE_MOST)
        owner = _owner(fields)
        size = fields.optional_integer("size")
        parents = fields.flag("parents", True)
        replacement = await self._away(files.Replacement, fields.path(), mode, owner, parents, size)
        try:
            await call.answer()
            await self._take_in(call, replacement)
            entry = await asyncio.shield(self._away(replacement.finish))
        finally:
            replacement.discard()
        await call.answer(entry=entry)

    async def _take_in(self, call: Call, replacement: files.Replacement) -> None:
        """Write what is uploaded; the device takes what has come while more of it comes."""
        flushing: asyncio.Task[None] | None = None
        unflushed = 0
        try:
            while parts := await call.uploaded():
                await self._away(replacement.write, b"".join(parts))
                unflushed += sum(map(len, parts))
                if unflushed >= _FLUSHED_BYTES and (flushing is None or flushing.done()):
                    if flushing is not None:
                        await flushing
                    flushing, unflushed = asyncio.create_task(self._away(replacement.flush)), 0
            if flushing is not None:
                await flushing
        finally:
            if flushing is not None:
                await asyncio.wait({flushing})

    async def _mkdir(self, call: Call) -> None:
        fields = call.fields
        mode = fields.integer("mode", 0o755, 0, _MODE_MOST)
        owner = _owner(fields)
        entry = await self._away(files.make_directory, fields.path(), mode, fields.flag("parents", True), owner)
        await call.answer(entry=entry)

    async def _move(self, call: Call) -> None:
        fields = call.fields
        overwrite = fields.flag("overwrite")
        await call.answer(entry=await self._away(files.move, fields.path("from"), fields.path("to"), overwrite))

    async def _remove(self, call: Call) -> None:
        await self._away(removal.remove, call.fields.path(), call.fields.flag("recursive"))
        await call.answer()

    async def _chmod(self, call: Call) -> None:
        mode = call.fields.integer("mode", most=_MODE_MOST)
        await call.answer(entry=await self._away(files.change_mode, call.fields.path(), mode))


def _owner(fields: Fields) -> Account | None:
    return find_account(fields.text("user")) if fields.has("user") else None


def _some(found: Iterator[dict[str, Any]]) -> tuple[list[dict[str, Any]], bool]:
    """The next entries of a listing, as many as fit a frame, and whether there may be more."""
    entries: list[dict[str, Any]] = []
    room = _ENTRIES_BYTES
    for entry in found:
        entries.append(entry)
        room -= 256 + 12 * sum(len(value) for value in entry.values() if isinstance(value, str))
        if len(entries) >= _ENTRIES_A_FRAME or room < 0:
            return entries, True
    return entries, False
