"""Artifacts: files of a sandbox that outlive it, published, listed, downloaded and deleted."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from boxkeep_server.control.files import Place
from boxkeep_server.model.artifacts import Artifact
from boxkeep_server.model.rates import CallKind
from boxkeep_server.model.scopes import Scope
from boxkeep_server.web import shapes
from boxkeep_server.web.edge import Broken
from boxkeep_server.web.event_streams import send_in_time
from boxkeep_server.web.fields import Fields, Nothing, Query, QueryInt, Text
from boxkeep_server.web.operations import Answer, AnyOperation, Call, Operation
from boxkeep_server.web.paths import place_of
from boxkeep_server.web.ranges import Part, part_of
from boxkeep_server.web.routes.transfers import SAFE
from boxkeep_server.web.tokens import Purpose
from boxkeep_server.web.views import artifact as shown
from boxkeep_server.web.views import json_response

PATH = "/v1/sandboxes/artifacts"
SandboxId = Annotated[Text, Field(min_length=1)]
Key = Annotated[Text, Field(min_length=1, max_length=1024)]
_MEDIA = r"^[A-Za-z0-9!#$&^_.+-]{1,100}/[A-Za-z0-9!#$&^_.+-]{1,100}$"


class Publish(Fields):
    """A file to be published; without `path` all below `/workspace/artifacts`."""

    id: SandboxId
    path: Annotated[Text, Field(min_length=1, max_length=4096)] | None = None
    key: Key | None = None
    content_type: Annotated[Text, Field(max_length=200, pattern=_MEDIA)] | None = None

    @field_validator("path")
    @classmethod
    def _is_one(cls, path: str | None) -> str | None:
        if path is not None and "\0" in path:
            raise PydanticCustomError("said", "{said}", {"said": "must not contain NUL"})
        return path

    def model_post_init(self, _: Any) -> None:
        """It names a place, or nothing else.

        Raises:
            Invalid: as `place_of`.
        """
        if self.path is None and (self.key is not None or self.content_type is not None):
            place_of(None, None)
        assert self.path is None or self.place

    @property
    def place(self) -> Place:
        """Where the file lies.

        Raises:
            Invalid: as `place_of`.
        """
        return place_of(self.path, None)


class ListQuery(Query):
    """A page of a sandbox's artifacts."""

    id: SandboxId
    limit: Annotated[QueryInt, Field(ge=1, le=1000)] | None = None
    cursor: Key | None = None


class OfArtifact(Query):
    """An artifact."""

    id: SandboxId
    key: Key


class DownloadQuery(OfArtifact):
    """An artifact to download."""

    token: Annotated[Text, Field(max_length=16384)] | None = None

    @property
    def bound(self) -> str:
        """What a token must name to open it."""
        return self.key


async def publish(call: Call, _: Nothing, body: Publish) -> Response:
    """Publish one file, or a folder."""
    artifacts = call.parts.artifacts
    if body.path is None:
        done = await artifacts.publish_folder(call.caller, body.id)
        return json_response({"items": [shown(item) for item in done.items], "skipped": done.skipped})
    made = await artifacts.publish(
        call.caller, body.id, body.place, key=body.key, content_type=body.content_type, artifact_id=call.effect
    )
    return json_response(shown(made))


async def list_(call: Call, query: ListQuery, _: Nothing) -> Response:
    """A page of artifacts."""
    page = await call.parts.artifacts.list(call.caller, query.id, query.cursor, query.limit or 100)
    return json_response({"items": [shown(item) for item in page.items], "nextCursor": page.next_cursor})


async def url(call: Call, query: OfArtifact, _: Nothing) -> Response:
    """A signed URL."""
    found = await call.parts.artifacts.get(call.caller, query.id, query.key)
    token, expires_at = call.parts.tokens.sign(
        call.caller.organisation, query.id, Purpose.ARTIFACT, call.caller.key_id, found.key
    )
    fields = urlencode({"id": query.id, "key": found.key, "token": token})
    return json_response({"url": f"{call.parts.public_url}{PATH}/download?{fields}", "expiresAt": expires_at})


async def delete(call: Call, query: OfArtifact, _: Nothing) -> Response:
    """Delete an artifact."""
    await call.parts.artifacts.delete(call.caller, query.id, query.key)
    return json_response({"ok": True})


async def download(call: Call, query: DownloadQuery, _: Nothing) -> Response:
    """An artifact, or a part of it."""
    found = await call.parts.artifacts.get(call.caller, query.id, query.key)
    headers, tag = _headers(found), f'"{found.sha256}"'
    if call.request.headers.get("if-none-match") == tag:
        return Response(None, 304, headers)
    part = None
    if call.request.headers.get("if-range", tag) == tag:
        part = part_of(call.request.headers.get("range"), found.size)
    if part is None:
        return ArtifactResponse(await call.parts.artifacts.read(found), Part(0, found.size), 200, headers)
    headers["Content-Range"] = f"bytes {part.offset}-{part.offset + part.length - 1}/{found.size}"
    chunks = await call.parts.artifacts.read(found, part.offset, part.length)
    return ArtifactResponse(chunks, part, 206, headers)


class ArtifactResponse(Response):
    """A part of an artifact on its way; it breaks off visibly when the store gives other bytes than were published."""

    def __init__(self, chunks: AsyncGenerator[bytes, None], part: Part, status: int, headers: dict[str, str]) -> None:
        super().__init__(None, status, {**headers, "Content-Length": str(part.length)})
        self._chunks = chunks
        self._left = part.length

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Send it; its last bytes only when all are known to be right."""
        async with aclosing(self._chunks) as chunks:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            held = b""
            async for chunk in chunks:
                self._left -= len(chunk)
                await send_in_time(send, held)
                held = chunk
        if self._left != 0:
            raise Broken("the store gave another length")
        await send_in_time(send, held, more=False)


def _headers(found: Artifact) -> dict[str, str]:
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\%' else "_" for c in found.name)
    disposition = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(found.name, safe='')}"
    about = {"Content-Type": found.content_type, "Content-Disposition": disposition, "ETag": f'"{found.sha256}"'}
    return {**SAFE, **about}


_ETAG = {"ETag": "The SHA-256.", "Accept-Ranges": "`bytes`.", "Content-Disposition": "The artifact's name."}
_PART = {**_ETAG, "Content-Range": "Which part it is, and how large the artifact is."}


def _operation(method: str, path: str, name: str, summary: str, **rest: Any) -> AnyOperation:
    wished = {
        "scope": Scope.FILES,
        "kind": CallKind.FILES,
        "query": Nothing,
        "body": Nothing,
        "faults": frozenset({404, 503, 504}),
        "tag": "artifacts",
    }
    return Operation(method=method, path=PATH + path, name=name, summary=summary, **{**wished, **rest})


OPERATIONS: tuple[AnyOperation, ...] = (
    _operation(
        "POST",
        "",
        "publishArtifact",
        "Publish a file, so that it outlives its sandbox",
        description="`key` is by default the file's name, always under the sandbox's `artifactPrefix`; the same key "
        "again replaces. Without `path` every regular file below `/workspace/artifacts` is published under its path "
        "from there; what was not is in `skipped`.",
        handler=publish,
        body=Publish,
        answers={200: Answer("The artifact, or those of the folder.", shapes.PublishedShape)},
        faults=frozenset({404, 409, 502, 503, 504, 507}),
    ),
    _operation(
        "GET",
        "",
        "listArtifacts",
        "List a sandbox's artifacts by key",
        handler=list_,
        query=ListQuery,
        answers={200: Answer("A page.", shapes.ArtifactList)},
    ),
    _operation(
        "GET",
        "/url",
        "artifactUrl",
        "Make a signed URL for the download of an artifact",
        handler=url,
        query=OfArtifact,
        answers={200: Answer("The URL, good for five minutes.", shapes.ArtifactUrl)},
    ),
    _operation(
        "DELETE",
        "",
        "deleteArtifact",
        "Delete an artifact",
        handler=delete,
        query=OfArtifact,
        answers={200: Answer("It is gone.", shapes.Ok)},
    ),
    _operation(
        "GET",
        "/download",
        "downloadArtifact",
        "Download an artifact",
        description="Takes `Range`, `If-Range` and `If-None-Match`. The key, or a signed URL's `token`.",
        handler=download,
        query=DownloadQuery,
        token=Purpose.ARTIFACT,
        answers={
            200: Answer("The artifact.", None, "application/octet-stream", headers=_ETAG),
            206: Answer("The part.", None, "application/octet-stream", headers=_PART),
            304: Answer("Unchanged.", None, None, headers=_ETAG),
        },
        headers={
            "Range": "`bytes=from-to`: one part of the artifact.",
            "If-Range": "The `ETag` of the artifact that the range is of; of another the whole comes.",
            "If-None-Match": "The `ETag` of the artifact that is there already.",
        },
        faults=frozenset({404, 416, 503, 504}),
    ),
)
