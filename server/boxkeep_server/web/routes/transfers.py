"""Downloads and uploads: files of any size, streamed at constant memory, by key or by signed URL."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated
from urllib.parse import quote

from pydantic import Field
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from boxkeep_server.control.files import Place, Reading
from boxkeep_server.control.inside import Entry
from boxkeep_server.model.errors import Invalid
from boxkeep_server.model.rates import CallKind
from boxkeep_server.model.scopes import Scope as KeyScope
from boxkeep_server.web import shapes
from boxkeep_server.web.edge import Broken
from boxkeep_server.web.event_streams import send_in_time
from boxkeep_server.web.fields import Nothing, Query, QueryInt, Text
from boxkeep_server.web.operations import Answer, AnyOperation, Call, Operation
from boxkeep_server.web.paths import AtPath, bound_of
from boxkeep_server.web.ranges import etag_of, part_of
from boxkeep_server.web.tokens import Purpose
from boxkeep_server.web.views import json_response

IDLE_S = 60.0
SAFE = {
    "Content-Type": "application/octet-stream",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, no-cache",
    "Referrer-Policy": "no-referrer",
    "Accept-Ranges": "bytes",
}
"""A browser that is led to a user's file saves it; it never shows, runs or guesses at it."""


class DownloadQuery(Query, AtPath):
    """The file to download."""

    id: Annotated[Text, Field(min_length=1)]
    token: Annotated[Text, Field(max_length=16384)] | None = None

    @property
    def bound(self) -> str:
        """What a token must name to open it."""
        return bound_of(self.path, self.path_base64)


class UploadQuery(DownloadQuery):
    """Where the upload goes. `mode` is the new file's, as a decimal number."""

    mode: Annotated[QueryInt, Field(ge=0, le=0o7777)] | None = None
    user: Annotated[Text, Field(min_length=1, max_length=256)] | None = None


async def head(call: Call, query: DownloadQuery, _: Nothing) -> Response:
    """What a download would say of a file."""
    place = query.place
    reading = await call.parts.files.read(call.caller, query.id, place, 0, 0)
    await reading.chunks.aclose()
    headers = {**_headers(place, reading.entry), "Content-Length": str(reading.entry.size)}
    return Response(None, 200, headers)


async def download(call: Call, query: DownloadQuery, _: Nothing) -> Response:
    """A file, or a part of it."""
    place = query.place
    wanted = call.request.headers.get("range")
    if wanted is None and call.request.headers.get("if-none-match") is None:
        return FileResponse(await call.parts.files.read(call.caller, query.id, place), place, 200)
    looked = await call.parts.files.read(call.caller, query.id, place, 0, 0)
    await looked.chunks.aclose()
    tag = etag_of(looked.entry)
    if call.request.headers.get("if-none-match") == tag:
        return Response(None, 304, _headers(place, looked.entry))
    part = None
    if call.request.headers.get("if-range", tag) == tag:
        part = part_of(wanted, looked.entry.size)
    if part is None:
        return FileResponse(await call.parts.files.read(call.caller, query.id, place), place, 200)
    reading = await call.parts.files.read(call.caller, query.id, place, part.offset, part.length)
    return FileResponse(reading, place, 206)


class FileResponse(Response):
    """A part of a file that is being read; it breaks off visibly when the file gives less than it promised."""

    def __init__(self, reading: Reading, place: Place, status: int) -> None:
        headers = {**_headers(place, reading.entry), "Content-Length": str(reading.length)}
        if status == 206:
            last = reading.offset + reading.length - 1
            headers["Content-Range"] = f"bytes {reading.offset}-{last}/{reading.entry.size}"
        super().__init__(None, status, headers)
        self._reading = reading

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        async with aclosing(self._reading.chunks) as chunks:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            sent = await _send_all(send, chunks)
        if sent != self._reading.length:
            raise Broken("the file became shorter")
        await send_in_time(send, b"", more=False)


async def _send_all(send: Send, chunks: AsyncGenerator[bytes, None]) -> int:
    sent = 0
    async for chunk in chunks:
        await send_in_time(send, chunk)
        sent += len(chunk)
    return sent


def _headers(place: Place, entry: Entry) -> dict[str, str]:
    plain = place.name.decode("ascii", "replace").replace("\ufffd", "_")
    plain = "".join(c if c.isprintable() and c not in '"\\%' else "_" for c in plain) or "download"
    disposition = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(place.name, safe='')}"
    return {**SAFE, "Content-Disposition": disposition, "ETag": etag_of(entry)}


async def upload(call: Call, query: UploadQuery, _: Nothing) -> Response:
    """Write a file from the request's body."""
    place = query.place
    announced = call.request.headers.get("content-length")
    size = int(announced) if announced is not None and announced.isdecimal() else None
    if call.request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Invalid("Content-Encoding is not supported. Send the file as it is")
    entry = await call.parts.files.write(
        call.caller, query.id, place, _chunks(call), size=size, mode=query.mode, user=query.user
    )
    return json_response({"id": query.id, "entry": entry.shown()})


async def _chunks(call: Call) -> AsyncIterator[bytes]:
    body = call.request.stream()
    try:
        while True:
            async with asyncio.timeout(IDLE_S):
                chunk = await anext(body, b"")
            if not chunk:
                return
            yield chunk
    except TimeoutError as late:
        raise Invalid(f"The upload stood still for {IDLE_S:.0f} s") from late
    except ClientDisconnect as gone:
        raise Broken("the client went away") from gone


_FAULTS = frozenset({404, 409, 502, 503, 504})
_PATH = "/v1/sandboxes/fs/download"
_ETAG = {"ETag": "Changes with the file.", "Accept-Ranges": "`bytes`.", "Content-Disposition": "The file's name."}
_FILE = Answer("The file.", None, "application/octet-stream", headers=_ETAG)
_PART = {**_ETAG, "Content-Range": "Which part it is, and how large the file is."}
_CONDITIONS = {
    "Range": "`bytes=from-to`: one part of the file.",
    "If-Range": "The `ETag` of the file that the range is of; of another the whole file comes.",
    "If-None-Match": "The `ETag` of the file that is there already.",
}

OPERATIONS: tuple[AnyOperation, ...] = (
    Operation(
        method="GET",
        path=_PATH,
        name="downloadFile",
        summary="Download a file",
        description="Takes `Range`, `If-Range` and `If-None-Match`. The key, or a signed URL's `token`.",
        scope=KeyScope.FILES,
        kind=CallKind.FILES,
        handler=download,
        query=DownloadQuery,
        body=Nothing,
        token=Purpose.DOWNLOAD,
        answers={
            200: _FILE,
            206: Answer("The part.", None, "application/octet-stream", headers=_PART),
            304: Answer("Unchanged.", None, None, headers=_ETAG),
        },
        headers=_CONDITIONS,
        faults=_FAULTS | {416},
        tag="files",
    ),
    Operation(
        method="HEAD",
        path=_PATH,
        name="headFile",
        summary="Ask what a download would be",
        scope=KeyScope.FILES,
        kind=CallKind.FILES,
        handler=head,
        query=DownloadQuery,
        body=Nothing,
        token=Purpose.DOWNLOAD,
        answers={200: Answer("Its size and tag, in the headers.", None, None, headers=_ETAG)},
        faults=_FAULTS,
        tag="files",
    ),
    Operation(
        method="PUT",
        path="/v1/sandboxes/fs/upload",
        name="uploadFile",
        summary="Upload a file, replacing it whole",
        description="The body is the file. The key, or a signed URL's `token`. A broken upload leaves the old file.",
        scope=KeyScope.FILES,
        kind=CallKind.FILES,
        handler=upload,
        query=UploadQuery,
        body=Nothing,
        raw=True,
        token=Purpose.UPLOAD,
        answers={200: Answer("The entry as it is now.", shapes.EntryAnswer)},
        faults=_FAULTS | {507},
        tag="files",
    ),
)
