"""Files of a sandbox: always through its guest, streamed, and named so that any bytes can be a name."""

import base64
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from boxkeep_server.control.inside import Entry, read_as, read_count
from boxkeep_server.control.keys import Caller
from boxkeep_server.control.record import Recorder
from boxkeep_server.control.visits import Visit, Visits
from boxkeep_server.model.errors import SandboxFault, TooLarge
from boxkeep_server.model.events import EventType, Note

INLINE_MOST = 10 << 20
ENTRIES_MOST = 100_000
UPLOAD_STEP_S = 120.0


@dataclass(frozen=True, slots=True)
class Place:
    """A path inside a sandbox, as text or as the base64 of other bytes."""

    path: str | None = None
    path_base64: str | None = None

    def fields(self, name: str = "path") -> dict[str, object]:
        """The same as fields of the guest wire."""
        return {name: self.path} if self.path is not None else {f"{name}Base64": self.path_base64}

    @property
    def name(self) -> bytes:
        """Its last part, as bytes."""
        whole = base64.b64decode(self.path_base64) if self.path_base64 is not None else (self.path or "").encode()
        return whole.rstrip(b"/").rpartition(b"/")[2]


@dataclass(frozen=True, slots=True)
class Reading:
    """A part of a file on its way: the entry as it was when the reading began, and where the part lies."""

    entry: Entry
    offset: int
    length: int
    chunks: AsyncGenerator[bytes, None]


class Files:
    """Reads, writes and arranges files. Every method raises `SandboxNotFound` and `NotReady` by the sandbox, and by the
    path `NotFound`, `Conflict`, `Invalid` (a directory, no directory, a loop of links), `TooLarge` or `NoSpace`. What
    changes something is in the timeline before it is answered."""

    def __init__(self, visits: Visits, recorder: Recorder, now_ms: Callable[[], int]) -> None:
        self._visits = visits
        self._recorder = recorder
        self._now_ms = now_ms

    async def stat(self, caller: Caller, sandbox_id: str, place: Place) -> Entry:
        """What lies there; of a link the link itself."""
        return await self._one(caller, sandbox_id, {"op": "file.stat", **place.fields()})

    async def list(self, caller: Caller, sandbox_id: str, place: Place) -> list[Entry]:
        """What a directory holds, at most 100,000 entries."""
        visit = await self._visits.begin(caller, sandbox_id)
        entries: list[Entry] = []
        async with aclosing(await visit.download({"op": "file.list", **place.fields()})) as download:
            async for frame in download.frames():
                found = (frame.message or {}).get("entries")
                if not isinstance(found, list):
                    raise SandboxFault
                entries += [read_as(Entry, item) for item in found]
                if len(entries) > ENTRIES_MOST:
                    raise TooLarge(f"The directory has more than {ENTRIES_MOST} entries")
        return entries

    async def read(
        self, caller: Caller, sandbox_id: str, place: Place, offset: int = 0, length: int | None = None
    ) -> Reading:
        """Begin to read a file; the chunks must be closed when done."""
        visit = await self._visits.begin(caller, sandbox_id)
        request = {"op": "file.read", **place.fields(), "offset": offset, "length": length}
        download = await visit.download(request)
        try:
            entry, measures = _promised(download.answer, offset, length)
        except SandboxFault:
            await download.aclose()
            raise

        async def chunks() -> AsyncGenerator[bytes, None]:
            left = measures
            async with aclosing(download):
                async for frame in download.frames():
                    left -= len(frame.data)
                    if frame.stream != "stdout" or left < 0:
                        raise SandboxFault
                    yield frame.data

        return Reading(entry, offset, measures, chunks())

    async def content(self, caller: Caller, sandbox_id: str, place: Place) -> bytes:
        """A whole file of at most 10 MiB."""
        reading = await self.read(caller, sandbox_id, place, 0, INLINE_MOST + 1)
        async with aclosing(reading.chunks):
            if reading.entry.size > INLINE_MOST or reading.length > INLINE_MOST:
                raise TooLarge(f"The file is larger than {INLINE_MOST} bytes. Use /v1/sandboxes/fs/download")
            return b"".join([chunk async for chunk in reading.chunks])

    async def write(
        self,
        caller: Caller,
        sandbox_id: str,
        place: Place,
        chunks: AsyncIterable[bytes],
        *,
        size: int | None,
        mode: int | None = None,
        user: str | None = None,
    ) -> Entry:
        """Put a file there whole or not at all, making its parents; a source that breaks off leaves the old one."""
        visit = await self._visits.begin(caller, sandbox_id)
        request = {"op": "file.write", **place.fields(), "mode": mode, "user": user, "parents": True, "size": size}
        answer = await visit.upload(request, chunks)
        entry = read_as(Entry, answer.get("entry"))
        await self._note(caller, visit, EventType.FILE_WRITTEN, {**place.fields(), "size": entry.size})
        return entry

    async def mkdir(
        self, caller: Caller, sandbox_id: str, place: Place, *, mode: int | None, parents: bool, user: str | None
    ) -> Entry:
        """Make a directory."""
        request = {"op": "file.mkdir", **place.fields(), "mode": mode, "parents": parents, "user": user}
        return await self._change(caller, sandbox_id, request, EventType.DIRECTORY_MADE, place.fields())

    async def move(self, caller: Caller, sandbox_id: str, source: Place, target: Place, *, overwrite: bool) -> Entry:
        """Rename."""
        places = {**source.fields("from"), **target.fields("to")}
        request = {"op": "file.move", **places, "overwrite": overwrite}
        return await self._change(caller, sandbox_id, request, EventType.FILE_MOVED, places)

    async def remove(self, caller: Caller, sandbox_id: str, place: Place, *, recursive: bool) -> None:
        """Remove a file, a link, or with `recursive` a directory and all in it."""
        visit = await self._visits.begin(caller, sandbox_id)
        await visit.call({"op": "file.remove", **place.fields(), "recursive": recursive}, timeout_s=UPLOAD_STEP_S)
        await self._note(caller, visit, EventType.FILE_REMOVED, {**place.fields(), "recursive": recursive})

    async def chmod(self, caller: Caller, sandbox_id: str, place: Place, mode: int) -> Entry:
        """Change a mode."""
        request = {"op": "file.chmod", **place.fields(), "mode": mode}
        done = {**place.fields(), "mode": f"{mode:04o}"}
        return await self._change(caller, sandbox_id, request, EventType.FILE_MODE, done)

    async def _change(
        self, caller: Caller, sandbox_id: str, request: dict[str, object], kind: EventType, done: Mapping[str, object]
    ) -> Entry:
        visit = await self._visits.begin(caller, sandbox_id)
        entry = read_as(Entry, (await visit.call(request)).get("entry"))
        await self._note(caller, visit, kind, done)
        return entry

    async def _note(self, caller: Caller, visit: Visit, kind: EventType, done: Mapping[str, object]) -> None:
        box = visit.sandbox
        await self._recorder.note(Note(box.id, box.organisation, kind, self._now_ms(), caller.key_id, done))

    async def _one(self, caller: Caller, sandbox_id: str, request: dict[str, object]) -> Entry:
        visit: Visit = await self._visits.begin(caller, sandbox_id)
        return read_as(Entry, (await visit.call(request)).get("entry"))


def _promised(answer: dict[str, Any], offset: int, length: int | None) -> tuple[Entry, int]:
    """The entry that is being read, and how many bytes of it are to come."""
    entry, measures = read_as(Entry, answer.get("entry")), read_count(answer.get("length"))
    if read_count(answer.get("offset")) != offset or (length is not None and measures > length):
        raise SandboxFault
    return entry, measures
