"""The event stream of a sandbox: its steps from the store, and when it becomes busy or idle."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, cast

from pydantic import Field
from starlette.responses import Response

from boxkeep_server.model.events import Event
from boxkeep_server.model.rates import CallKind
from boxkeep_server.model.scopes import Scope
from boxkeep_server.web import shapes
from boxkeep_server.web.event_streams import EventStream, encode_event, last_event_id
from boxkeep_server.web.fields import Nothing, Query, Text
from boxkeep_server.web.operations import Answer, AnyOperation, Call, Operation
from boxkeep_server.web.views import event as event_view

LOOK_S = 1.0
ACTIVITY = "sandbox.activity"

Stored = AsyncGenerator[Event | None, None]


class EventsQuery(Query):
    """The sandbox to watch."""

    id: Annotated[Text, Field(min_length=1)]


async def events(call: Call, query: EventsQuery, _: Nothing) -> Response:
    """Watch a sandbox."""
    after = last_event_id(call.request)
    stored = cast(Stored, call.parts.sandboxes.events(call.caller, query.id, after or 0, LOOK_S))
    try:
        first = await anext(stored)
    except StopAsyncIteration:
        return Response(None, 204)
    return EventStream(_events(call, query.id, first, stored))


async def _events(call: Call, sandbox_id: str, first: Event | None, stored: Stored) -> AsyncGenerator[bytes, None]:
    """Stored events in order; edges of activity in their silences, at most one a second. Ends with the sandbox."""
    was_active = False
    async with aclosing(stored):
        happened = first
        while True:
            if happened is not None:
                yield encode_event(happened.type.value, event_view(happened), happened.sequence)
            active = call.parts.active(sandbox_id)
            if happened is None and active != was_active:
                was_active = active
                yield encode_event(ACTIVITY, {"type": ACTIVITY, "id": sandbox_id, "active": active})
            try:
                happened = await anext(stored)
            except StopAsyncIteration:
                return


OPERATIONS: tuple[AnyOperation, ...] = (
    Operation(
        method="GET",
        path="/v1/sandboxes/events",
        name="watchEvents",
        summary="Watch a sandbox's events",
        description="Server-sent events of state and activity: steps, commands, limits, artifacts. Changes of files "
        "and visits to terminals are in the timeline alone, so that sequences here have gaps. Each event comes with "
        "its sequence as id; `Last-Event-ID` goes on after one. A comment every 15 s of silence. The stream ends when "
        "the sandbox is over and its commands have their outcomes; asked again after its last event it is a 204.",
        scope=Scope.READ,
        kind=CallKind.READ,
        handler=events,
        query=EventsQuery,
        body=Nothing,
        answers={
            200: Answer("The events.", media=None, events=shapes.EventShape),
            204: Answer("The sandbox is over and there is nothing more.", None, None),
        },
        headers={"Last-Event-ID": "The `sequence` behind which to go on."},
        faults=frozenset({404}),
    ),
)
