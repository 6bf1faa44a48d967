"""Handoffs: a person is asked for, takes over, and gives back."""

from typing import Annotated, Literal

from pydantic import Field
from starlette.responses import Response

from boxkeep_server.model.handoffs import LONGEST_MS, HandoffReason
from boxkeep_server.model.rates import CallKind
from boxkeep_server.model.scopes import Scope
from boxkeep_server.web import shapes
from boxkeep_server.web.fields import Fields, Nothing, OfSandbox, SomeId, Text
from boxkeep_server.web.operations import Answer, AnyOperation, Call, Operation
from boxkeep_server.web.views import handoff_shown, json_response

PATH = "/v1/sandboxes/handoff"
Note = Annotated[Text, Field(max_length=10_000)]


class RequestBody(Fields):
    """What a person is needed for. `exclusive`: the agent may not even watch meanwhile."""

    id: SomeId
    reason: HandoffReason
    message: Note
    resume_prompt: Note | None = None
    expires_in_ms: Annotated[int, Field(ge=1000, le=LONGEST_MS)] | None = None
    requested_by: Literal["agent", "worker", "sdk", "dashboard"] | None = None
    exclusive: bool | None = None


class AcceptBody(Fields):
    """Who takes over."""

    id: SomeId
    controller: Annotated[Text, Field(min_length=1, max_length=200)]


class CompleteBody(Fields):
    """What the person did."""

    id: SomeId
    note: Note | None = None


class CancelBody(Fields):
    """A sandbox."""

    id: SomeId


async def request(call: Call, _: Nothing, body: RequestBody) -> Response:
    """Ask for a person."""
    made = await call.parts.handoffs.request(
        call.caller,
        body.id,
        body.reason,
        body.message,
        requested_by=body.requested_by or "sdk",
        exclusive=body.exclusive is True,
        resume_prompt=body.resume_prompt,
        expires_in_ms=body.expires_in_ms,
        handoff_id=call.effect,
    )
    return json_response(handoff_shown(made))


async def read(call: Call, query: OfSandbox, _: Nothing) -> Response:
    """The latest."""
    return json_response(handoff_shown(await call.parts.handoffs.read(call.caller, query.id)))


async def accept(call: Call, _: Nothing, body: AcceptBody) -> Response:
    """Take over."""
    return json_response(handoff_shown(await call.parts.handoffs.accept(call.caller, body.id, body.controller)))


async def complete(call: Call, _: Nothing, body: CompleteBody) -> Response:
    """Give back."""
    return json_response(handoff_shown(await call.parts.handoffs.complete(call.caller, body.id, body.note)))


async def cancel(call: Call, _: Nothing, body: CancelBody) -> Response:
    """Want it no more."""
    return json_response(handoff_shown(await call.parts.handoffs.cancel(call.caller, body.id)))


_FAULTS = frozenset({404, 409})
_ANSWERS = {200: Answer("The handoff.", shapes.HandoffShape)}

OPERATIONS: tuple[AnyOperation, ...] = (
    Operation(
        method="POST",
        path=PATH,
        name="requestHandoff",
        summary="Ask for a person to take the browser over",
        description="One at a time, for sandboxes with `capabilities.browser.humanInLoop`. It expires after "
        "`expiresInMs`, by default ten minutes, whether it was accepted or not.",
        scope=Scope.MANAGE,
        kind=CallKind.EXEC,
        handler=request,
        query=Nothing,
        body=RequestBody,
        answers=_ANSWERS,
        faults=_FAULTS,
        tag="handoffs",
    ),
    Operation(
        method="GET",
        path=PATH,
        name="readHandoff",
        summary="See the handoff that a sandbox had last",
        scope=Scope.MANAGE,
        kind=CallKind.READ,
        handler=read,
        query=OfSandbox,
        body=Nothing,
        answers=_ANSWERS,
        faults=_FAULTS,
        tag="handoffs",
    ),
    Operation(
        method="POST",
        path=f"{PATH}/accept",
        name="acceptHandoff",
        summary="Take the browser over",
        description="From now on `controlMode` is `shared`, or `human` where the handoff is exclusive: what the agent "
        "does by the browser's protocol is refused, and the viewer of that `controller` takes mouse and keyboard.",
        scope=Scope.MANAGE,
        kind=CallKind.EXEC,
        handler=accept,
        query=Nothing,
        body=AcceptBody,
        answers=_ANSWERS,
        faults=_FAULTS,
        tag="handoffs",
    ),
    Operation(
        method="POST",
        path=f"{PATH}/complete",
        name="completeHandoff",
        summary="Give the browser back",
        scope=Scope.MANAGE,
        kind=CallKind.EXEC,
        handler=complete,
        query=Nothing,
        body=CompleteBody,
        answers=_ANSWERS,
        faults=_FAULTS,
        tag="handoffs",
    ),
    Operation(
        method="POST",
        path=f"{PATH}/cancel",
        name="cancelHandoff",
        summary="Want no person any more",
        scope=Scope.MANAGE,
        kind=CallKind.EXEC,
        handler=cancel,
        query=Nothing,
        body=CancelBody,
        answers=_ANSWERS,
        faults=_FAULTS,
        tag="handoffs",
    ),
)
