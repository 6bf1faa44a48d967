"""Checkpoints: taken of a sandbox that goes on, listed, deleted, and gone back to."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from starlette.responses import Response

from boxkeep_server.model.errors import Conflict
from boxkeep_server.model.rates import CallKind
from boxkeep_server.model.scopes import Scope
from boxkeep_server.web import shapes
from boxkeep_server.web.fields import Fields, Nothing, Query, QueryInt, Text
from boxkeep_server.web.operations import Answer, AnyOperation, Call, Operation
from boxkeep_server.web.routes.sandboxes import WaitQuery, awaited
from boxkeep_server.web.views import checkpoint as shown
from boxkeep_server.web.views import created, json_response
from boxkeep_server.web.wishes import no_control

PATH = "/v1/sandboxes/checkpoints"
SandboxId = Annotated[Text, Field(min_length=1)]
CheckpointId = Annotated[Text, Field(min_length=1, max_length=200)]
Name = Annotated[Text, Field(max_length=200), BeforeValidator(no_control)]


class TakeBody(Fields):
    """A checkpoint to be taken."""

    id: SandboxId
    name: Name | None = None
    memory: bool | None = None


class ListQuery(Query):
    """A page of checkpoints: of one sandbox, or without `id` of all."""

    id: SandboxId | None = None
    limit: Annotated[QueryInt, Field(ge=1, le=1000)] | None = None
    cursor: Annotated[Text, Field(max_length=200)] | None = None


class OfCheckpoint(Query):
    """A checkpoint."""

    checkpoint_id: CheckpointId


class RestoreBody(Fields):
    """The checkpoint that its sandbox is to go back to; `id`, where it is given, must be that sandbox."""

    checkpoint_id: CheckpointId
    id: SandboxId | None = None
    memory: bool | None = None


async def take(call: Call, _: Nothing, body: TakeBody) -> Response:
    """Take a checkpoint."""
    made = await call.parts.checkpoints.take(
        call.caller, body.id, name=body.name, memory=body.memory is True, checkpoint_id=call.effect
    )
    return json_response(shown(made))


async def list_(call: Call, query: ListQuery, _: Nothing) -> Response:
    """A page of checkpoints."""
    page = await call.parts.checkpoints.list(call.caller, query.id, cursor=query.cursor, limit=query.limit or 100)
    return json_response({"items": [shown(item) for item in page.items], "nextCursor": page.next_cursor})


async def delete(call: Call, query: OfCheckpoint, _: Nothing) -> Response:
    """Delete a checkpoint."""
    await call.parts.checkpoints.delete(call.caller, query.checkpoint_id)
    return json_response({"ok": True})


async def restore(call: Call, query: WaitQuery, body: RestoreBody) -> Response:
    """Have a sandbox go back to a checkpoint."""
    if body.id is not None:
        await call.parts.sandboxes.get(call.caller, body.id)
        found = await call.parts.checkpoints.get(call.caller, body.checkpoint_id)
        if found.sandbox != body.id:
            raise Conflict("The checkpoint is of another sandbox; create one from it with fromCheckpoint")
    sandbox = await call.parts.checkpoints.restore(call.caller, body.checkpoint_id, memory=body.memory is not False)
    return json_response(created(await awaited(call, query, sandbox)))


def _operation(method: str, path: str, name: str, summary: str, **rest: Any) -> AnyOperation:
    wished = {
        "scope": Scope.MANAGE,
        "kind": CallKind.CREATE,
        "query": Nothing,
        "body": Nothing,
        "faults": frozenset({404, 409}),
        "tag": "checkpoints",
    }
    return Operation(method=method, path=PATH + path, name=name, summary=summary, **{**wished, **rest})


OPERATIONS: tuple[AnyOperation, ...] = (
    _operation(
        "POST",
        "",
        "takeCheckpoint",
        "Take a checkpoint of a sandbox that goes on",
        description="Answers when it is durable. For sandboxes with `ephemeral: false` or `storage.workspace: "
        "checkpointed`. It has all files, installed packages too; with `memory: true`, where the isolation can, also "
        "the processes, for which calls under way are cut off for a moment. `stoppedMs` says how long the sandbox "
        "stood still, `keeps` what there is, `lost` why memory that was asked for is not.",
        handler=take,
        body=TakeBody,
        answers={200: Answer("The checkpoint.", shapes.CheckpointShape)},
        faults=frozenset({404, 409, 503, 504, 507}),
    ),
    _operation(
        "GET",
        "",
        "listCheckpoints",
        "List checkpoints, newest first",
        description="Of a sandbox, or without `id` of all. A sandbox whose machine died leaves one named `last`.",
        kind=CallKind.READ,
        handler=list_,
        query=ListQuery,
        answers={200: Answer("A page.", shapes.CheckpointList)},
        faults=frozenset({404}),
    ),
    _operation(
        "DELETE",
        "",
        "deleteCheckpoint",
        "Delete a checkpoint",
        description="Sandboxes that began from it keep what they have. While one is being started from it: 409.",
        kind=CallKind.DELETE,
        handler=delete,
        query=OfCheckpoint,
        answers={200: Answer("It is gone.", shapes.Ok)},
    ),
    _operation(
        "POST",
        "/restore",
        "restoreCheckpoint",
        "Have a ready or paused sandbox go back to a checkpoint of its own",
        description="What it is now is kept until that has come about; if it fails the sandbox is paused with it, and "
        "`reason` says why. Commands that run and are not in the checkpoint end with `rolled_back`. With `memory: "
        "false` it goes back to the files of the checkpoint alone.",
        handler=restore,
        query=WaitQuery,
        body=RestoreBody,
        answers={200: Answer("It goes back.", shapes.CreatedShape)},
    ),
)
