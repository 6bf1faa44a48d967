"""The timeline: everything that happened in and to a sandbox, in order, and who did it."""

from collections.abc import AsyncGenerator
from typing import Annotated, Literal

import orjson
from pydantic import Field
from starlette.responses import Response

from boxkeep_server.model.rates import CallKind
from boxkeep_server.model.scopes import Scope
from boxkeep_server.web import shapes
from boxkeep_server.web.event_streams import Streamed
from boxkeep_server.web.fields import Nothing, Query, QueryInt, Text
from boxkeep_server.web.operations import Answer, AnyOperation, Call, Operation
from boxkeep_server.web.views import happening, json_response

_AT_ONCE = 500


class TimelineQuery(Query):
    """A page of a sandbox's timeline behind a sequence, or all of it as JSON lines."""

    id: Annotated[Text, Field(min_length=1)]
    after: Annotated[QueryInt, Field(ge=0, le=2**31 - 1)] | None = None
    limit: Annotated[QueryInt, Field(ge=1, le=1000)] | None = None
    format: Literal["json", "jsonl"] | None = None


async def read(call: Call, query: TimelineQuery, _: Nothing) -> Response:
    """What happened, oldest first."""
    await call.parts.sandboxes.get(call.caller, query.id)
    after = query.after or 0
    if query.format == "jsonl":
        headers = {"Content-Type": "application/x-ndjson; charset=utf-8", "Cache-Control": "no-store"}
        return Streamed(_lines(call, query.id, after), headers)
    limit = query.limit or 100
    found = await call.parts.sandboxes.timeline(query.id, after, limit + 1)
    items = found[:limit]
    following = items[-1].sequence if len(found) > limit else None
    return json_response({"items": [happening(one) for one in items], "nextAfter": following})


async def _lines(call: Call, sandbox_id: str, after: int) -> AsyncGenerator[bytes, None]:
    """All that is there, a page at a time: memory stays bounded however long it is."""
    while found := await call.parts.sandboxes.timeline(sandbox_id, after, _AT_ONCE):
        yield b"".join(orjson.dumps(happening(one)) + b"\n" for one in found)
        after = found[-1].sequence


OPERATIONS: tuple[AnyOperation, ...] = (
    Operation(
        method="GET",
        path="/v1/sandboxes/timeline",
        name="readTimeline",
        summary="Read a sandbox's timeline",
        description="Everything that happened in and to a sandbox, oldest first: its steps with their reasons, "
        "commands and terminals with their outcomes, who joined and left a terminal, changes of files by this API, "
        "limits that were reached. `actor` "
        "is the id of the key that did it, `system` or `operator`. `after` goes on behind a `sequence`, as `nextAfter` "
        "says; with `format=jsonl` all of it comes as JSON lines. It never holds what commands read or wrote, nor "
        "values of the environment.",
        scope=Scope.READ,
        kind=CallKind.READ,
        handler=read,
        query=TimelineQuery,
        body=Nothing,
        answers={200: Answer("What happened.", shapes.TimelineShape, lines=shapes.HappeningShape)},
        faults=frozenset({404}),
    ),
)
