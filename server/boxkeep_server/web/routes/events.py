"""The event stream of a sandbox: its steps from the store, and when it becomes busy or idle."""

from collections.abc import AsyncGenerator
from typing import Annotated

from pydantic import Field
from starlette.responses import Response

from boxkeep_server.model.errors import Invalid
from boxkeep_server.model.rates import CallKind
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.model.scopes import Scope
from boxkeep_server.model.statuses import OVER, Status
from boxkeep_server.web import shapes
from boxkeep_server.web.event_streams import EventStream, encode_event
from boxkeep_server.web.fields import Nothing, Query, Text
from boxkeep_server.web.operations import Answer, AnyOperation, Call, Operation
from boxkeep_server.web.views import event as event_view

PAGE = 200
LOOK_S = 1.0
ACTIVITY = "sandbox.activity"


class EventsQuery(Query):
    """The sandbox to watch."""

    id: Annotated[Text, Field(min_length=1)]


async def events(call: Call, query: EventsQuery, _: Nothing) -> Response:
    """Watch a sandbox."""
    sandbox = await call.parts.sandboxes.get(call.caller, query.id)
    after = _last_event_id(call)
    if sandbox.status in OVER and after is not None and not await call.parts.events.after(sandbox.id, after, 1):
        return Response(None, 204)
    return EventStream(_events(call, sandbox, after or 0))


def _last_event_id(call: Call) -> int | None:
    given = call.request.headers.get("last-event-id")
    if given is None:
        return None
    if not (given.isascii() and given.isdecimal() and len(given) <= 18):
        raise Invalid("Invalid Last-Event-ID: must be the id of an event of this stream")
    return int(given)


async def _events(call: Call, sandbox: Sandbox, after: int) -> AsyncGenerator[bytes, None]:
    """Stored events in order; between them edges of activity, at most one each look. Ends with the sandbox."""
    was_active = False
    while True:
        page = await call.parts.events.after(sandbox.id, after, PAGE)
        for happened in page:
            after = happened.sequence
            yield encode_event(happened.type.value, event_view(happened), happened.sequence)
        if page:
            continue
        now = await call.parts.sandboxes.get(call.caller, sandbox.id)
        if now.status in OVER and not await call.parts.events.after(sandbox.id, after, 1):
            return
        active = now.status is Status.READY and call.parts.commands.active(sandbox.id)
        if active != was_active:
            was_active = active
            status = "active" if active else now.status.value
            yield encode_event(ACTIVITY, {"type": ACTIVITY, "id": sandbox.id, "active": active, "status": status})
        await call.parts.events.changed(sandbox.id, LOOK_S)


OPERATIONS: tuple[AnyOperation, ...] = (
    Operation(
        method="GET",
        path="/v1/sandboxes/events",
        name="watchEvents",
        summary="Watch a sandbox's events",
        description="Server-sent events, each with its sequence as id; `Last-Event-ID` goes on after one. A comment "
        "every 15 s of silence. The stream ends with the sandbox; asked again after its last event it is a 204.",
        scope=Scope.READ,
        kind=CallKind.READ,
        handler=events,
        query=EventsQuery,
        body=Nothing,
        answers={
            200: Answer("The events.", shapes.EventShape, "text/event-stream"),
            204: Answer("The sandbox is over and there is nothing more.", None, None),
        },
        faults=frozenset({404}),
    ),
)
