"""Files: read, write, list and arrange, as JSON."""

import base64
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from pydantic import Field
from starlette.responses import Response

from boxkeep_server.control.files import INLINE_MOST, Place
from boxkeep_server.control.inside import Entry
from boxkeep_server.model.errors import Invalid, TooLarge
from boxkeep_server.model.rates import CallKind
from boxkeep_server.model.scopes import Scope
from boxkeep_server.web import shapes
from boxkeep_server.web.fields import Fields, Nothing, Query, Text, decode_base64
from boxkeep_server.web.operations import Answer, AnyOperation, Call, Operation
from boxkeep_server.web.paths import WORKSPACE, AtPath, PathBytes, PathText, bound_of, place_of
from boxkeep_server.web.tokens import Purpose
from boxkeep_server.web.views import json_response

SandboxId = Annotated[Text, Field(min_length=1)]
Mode = Annotated[int, Field(ge=0, le=0o7777)]
User = Annotated[Text, Field(min_length=1, max_length=256)]
Encoding = Literal["utf-8", "base64"]
WRITE_BODY = 64 << 20
STEP = 256 * 1024


class PathQuery(Query, AtPath):
    """A path in a sandbox."""

    id: SandboxId


class ReadQuery(PathQuery):
    """A file to read. Without `encoding` it comes as text where it is UTF-8, else as base64."""

    encoding: Encoding | None = None


class ListQuery(PathQuery):
    """A directory in a sandbox, by default `/workspace`."""

    DEFAULT = WORKSPACE


class PathBody(AtPath):
    """A path in a sandbox."""

    id: SandboxId


class WriteBody(PathBody):
    """A file's new content."""

    content: str = Field(repr=False)
    encoding: Encoding | None = None
    mode: Mode | None = None
    user: User | None = None


class MkdirBody(PathBody):
    """A directory to be; its parents are made unless `parents` is false."""

    mode: Mode | None = None
    parents: bool | None = None
    user: User | None = None


class MoveBody(Fields):
    """What to move where."""

    id: SandboxId
    source: PathText | None = Field(default=None, alias="from")
    source_base64: PathBytes | None = Field(default=None, alias="fromBase64")
    to: PathText | None = None
    to_base64: PathBytes | None = None
    overwrite: bool | None = None

    def model_post_init(self, _: Any) -> None:
        """Both places are ones.

        Raises:
            Invalid: as `places` does.
        """
        assert self.places

    @property
    def places(self) -> tuple[Place, Place]:
        """From where to where.

        Raises:
            Invalid: one is missing, named twice or none.
        """
        return place_of(self.source, self.source_base64, "from"), place_of(self.to, self.to_base64, "to")


class RemoveBody(PathBody):
    """What to remove."""

    recursive: bool | None = None


class ChmodBody(PathBody):
    """A new mode, as a number: 493 is 0755."""

    mode: Mode


class UrlBody(PathBody):
    """A file to be read or written through a signed URL."""

    operation: Literal["download", "upload"]


def shown_path(place: Place) -> dict[str, object]:
    """The path of a request, as its answer repeats it."""
    return place.fields()


async def read(call: Call, query: ReadQuery, _: Nothing) -> Response:
    """A file's content."""
    place = query.place
    data = await call.parts.files.content(call.caller, query.id, place)
    text, encoding = _as_text(data, query.encoding)
    return json_response({**shown_path(place), "content": text, "encoding": encoding, "size": len(data)})


def _as_text(data: bytes, wished: Encoding | None) -> tuple[str, Encoding]:
    if wished != "base64":
        try:
            return data.decode(), "utf-8"
        except UnicodeDecodeError as error:
            if wished == "utf-8":
                raise Invalid("The file is not UTF-8. Read it with encoding=base64") from error
    return base64.b64encode(data).decode(), "base64"


async def write(call: Call, _: Nothing, body: WriteBody) -> Response:
    """Write a file."""
    place = body.place
    data = decode_base64(body.content, "content") if body.encoding == "base64" else body.content.encode()
    if len(data) > INLINE_MOST:
        raise TooLarge(f"The content is larger than {INLINE_MOST} bytes. Use /v1/sandboxes/fs/upload")
    entry = await call.parts.files.write(
        call.caller, body.id, place, _pieces(data), size=len(data), mode=body.mode, user=body.user
    )
    return _entry_response(body.id, entry)


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), STEP):
        yield data[at : at + STEP]


async def list_(call: Call, query: ListQuery, _: Nothing) -> Response:
    """What a directory holds."""
    place = query.place
    entries = await call.parts.files.list(call.caller, query.id, place)
    return json_response({**shown_path(place), "entries": [entry.shown() for entry in entries]})


async def stat(call: Call, query: PathQuery, _: Nothing) -> Response:
    """What lies at a path."""
    place = query.place
    return _entry_response(query.id, await call.parts.files.stat(call.caller, query.id, place))


async def mkdir(call: Call, _: Nothing, body: MkdirBody) -> Response:
    """Make a directory."""
    entry = await call.parts.files.mkdir(
        call.caller,
        body.id,
        body.place,
        mode=body.mode,
        parents=body.parents is not False,
        user=body.user,
    )
    return _entry_response(body.id, entry)


async def move(call: Call, _: Nothing, body: MoveBody) -> Response:
    """Rename."""
    source, target = body.places
    entry = await call.parts.files.move(call.caller, body.id, source, target, overwrite=bool(body.overwrite))
    return _entry_response(body.id, entry)


async def remove(call: Call, _: Nothing, body: RemoveBody) -> Response:
    """Remove."""
    place = body.place
    await call.parts.files.remove(call.caller, body.id, place, recursive=bool(body.recursive))
    return json_response({"ok": True})


async def chmod(call: Call, _: Nothing, body: ChmodBody) -> Response:
    """Change a mode."""
    place = body.place
    return _entry_response(body.id, await call.parts.files.chmod(call.caller, body.id, place, body.mode))


async def url(call: Call, _: Nothing, body: UrlBody) -> Response:
    """A signed URL."""
    place = body.place
    await call.parts.sandboxes.get(call.caller, body.id)
    purpose = Purpose(body.operation)
    fields = {name: str(value) for name, value in place.fields().items()}
    token, expires_at = call.parts.tokens.sign(
        call.caller.organisation,
        body.id,
        purpose,
        call.caller.key_id,
        bound_of(fields.get("path"), fields.get("pathBase64")),
    )
    address = (
        f"{call.parts.public_url}/v1/sandboxes/fs/{purpose}?{urlencode({'id': body.id, **fields, 'token': token})}"
    )
    method = "GET" if purpose is Purpose.DOWNLOAD else "PUT"
    return json_response({"url": address, "method": method, "expiresAt": expires_at})


def _entry_response(sandbox_id: str, entry: Entry) -> Response:
    return json_response({"id": sandbox_id, "entry": entry.shown()})


_FAULTS = frozenset({404, 409, 502, 503, 504})
_ENTRY = {200: Answer("The entry as it is now.", shapes.EntryAnswer)}


def _operation(method: str, verb: str, summary: str, **rest: Any) -> AnyOperation:
    wished = {
        "name": f"{verb}File",
        "scope": Scope.FILES,
        "kind": CallKind.FILES,
        "query": Nothing,
        "body": Nothing,
        "answers": _ENTRY,
        "faults": _FAULTS,
        "tag": "files",
    }
    return Operation(method=method, path=f"/v1/sandboxes/fs/{verb}", summary=summary, **{**wished, **rest})


OPERATIONS: tuple[AnyOperation, ...] = (
    _operation(
        "GET",
        "read",
        "Read a file of at most 10 MiB",
        handler=read,
        query=ReadQuery,
        answers={200: Answer("Its content.", shapes.FileContent)},
    ),
    _operation(
        "POST",
        "write",
        "Write a file, replacing it whole",
        handler=write,
        body=WriteBody,
        body_limit=WRITE_BODY,
        faults=_FAULTS | {507},
    ),
    _operation(
        "GET",
        "list",
        "List a directory",
        handler=list_,
        query=ListQuery,
        answers={200: Answer("What it holds.", shapes.EntryList)},
    ),
    _operation("GET", "stat", "Look at a path; links are not followed", handler=stat, query=PathQuery),
    _operation("POST", "mkdir", "Make a directory", handler=mkdir, body=MkdirBody, faults=_FAULTS | {507}),
    _operation("POST", "move", "Move or rename", handler=move, body=MoveBody, faults=_FAULTS | {507}),
    _operation(
        "POST",
        "remove",
        "Remove a file, or with `recursive` a directory",
        handler=remove,
        body=RemoveBody,
        answers={200: Answer("It is gone.", shapes.Ok)},
    ),
    _operation("POST", "chmod", "Change a mode", handler=chmod, body=ChmodBody),
    _operation(
        "POST",
        "url",
        "Make a signed URL for a download or an upload",
        handler=url,
        body=UrlBody,
        answers={200: Answer("The URL, good for five minutes.", shapes.SignedUrl)},
    ),
)
