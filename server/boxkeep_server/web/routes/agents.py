"""Agents: what a sandbox's opencode is prompted to do, waited for or not, watched and given up."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from pydantic import Field
from starlette.responses import Response

from boxkeep_server.control.agents import Prompt
from boxkeep_server.model.agents import TIMEOUT_MOST_MS, Task, TaskEvent
from boxkeep_server.model.rates import CallKind
from boxkeep_server.model.scopes import Scope
from boxkeep_server.web import shapes
from boxkeep_server.web.event_streams import EventStream, encode_event, last_event_id
from boxkeep_server.web.fields import Fields, Nothing, Query, QueryInt, SomeId, Text
from boxkeep_server.web.operations import Answer, AnyOperation, Call, Operation
from boxkeep_server.web.views import json_response, task, task_event
from boxkeep_server.web.wishes import Metadata

PATH = "/v1/sandboxes/opencode"
ENDED = "task"


class OfTasks(Query):
    """A sandbox, and one task of it or a page of all."""

    id: SomeId
    task_id: SomeId | None = None
    limit: Annotated[QueryInt, Field(ge=1, le=100)] | None = None
    cursor: Annotated[Text, Field(max_length=200)] | None = None


class OfTask(Query):
    """A task of a sandbox."""

    id: SomeId
    task_id: SomeId


class PromptBody(Fields):
    """Something for the agent to do. Without `sessionId` it begins a conversation of its own."""

    id: SomeId
    prompt: Annotated[Text, Field(min_length=1, max_length=100_000)]
    agent: Annotated[Text, Field(min_length=1, max_length=200)] | None = None
    session_id: Annotated[Text, Field(pattern="^ses_[A-Za-z0-9]{1,64}$")] | None = None
    metadata: Metadata | None = None
    timeout_ms: Annotated[int, Field(ge=1000, le=TIMEOUT_MOST_MS)] | None = None


class CancelBody(Fields):
    """A task to be given up."""

    id: SomeId
    task_id: SomeId


async def prompt(call: Call, _: Nothing, body: PromptBody) -> Response:
    """Have it done, and wait for that."""
    return json_response(task(await call.parts.agents.ended(await _queued(call, body))))


async def create(call: Call, _: Nothing, body: PromptBody) -> Response:
    """Have it done."""
    return json_response(task(await _queued(call, body)))


async def _queued(call: Call, body: PromptBody) -> Task:
    wish = Prompt(body.prompt, body.agent, body.session_id, body.metadata, body.timeout_ms)
    return await call.parts.agents.prompt(call.caller, body.id, wish, call.effect)


async def read(call: Call, query: OfTasks, _: Nothing) -> Response:
    """One, or a page."""
    if query.task_id is not None:
        return json_response(task(await call.parts.agents.read(call.caller, query.id, query.task_id)))
    page = await call.parts.agents.list(call.caller, query.id, cursor=query.cursor, limit=query.limit or 20)
    return json_response({"items": [task(one) for one in page.items], "nextCursor": page.next_cursor})


async def cancel(call: Call, _: Nothing, body: CancelBody) -> Response:
    """Give one up."""
    return json_response(task(await call.parts.agents.cancel(call.caller, body.id, body.task_id)))


async def watch(call: Call, query: OfTask, _: Nothing) -> Response:
    """See what happens in one."""
    after = last_event_id(call.request)
    await call.parts.agents.read(call.caller, query.id, query.task_id)
    return EventStream(
        _events(call.parts.agents.follow(call.caller, query.id, query.task_id, -1 if after is None else after))
    )


async def _events(stored: AsyncGenerator[TaskEvent | Task, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(stored):
        async for one in stored:
            if isinstance(one, TaskEvent):
                yield encode_event(one.kind, task_event(one), one.n)
            else:
                yield encode_event(ENDED, task(one))


_FAULTS = frozenset({404, 409, 502, 503, 504})
_PROMPTED = {200: Answer("The task.", shapes.TaskShape)}

OPERATIONS: tuple[AnyOperation, ...] = (
    Operation(
        method="POST",
        path=f"{PATH}/prompt",
        name="prompt",
        summary="Have the agent do something, and wait until it has",
        description="Answers the task once it is `completed` or `failed`. It goes on if the client goes away; ask for "
        "it by its id. Tasks of one sandbox are worked on one after the other. `timeoutMs` counts from when it begins.",
        scope=Scope.EXEC,
        kind=CallKind.PROMPT,
        handler=prompt,
        query=Nothing,
        body=PromptBody,
        answers=_PROMPTED,
        faults=_FAULTS,
        tag="agents",
    ),
    Operation(
        method="POST",
        path=f"{PATH}/tasks",
        name="createTask",
        summary="Have the agent do something",
        description="Answers the task as soon as it is queued. It survives restarts, and pauses: where a pause keeps "
        "files alone the agent is told afterwards to go on with it.",
        scope=Scope.EXEC,
        kind=CallKind.PROMPT,
        handler=create,
        query=Nothing,
        body=PromptBody,
        answers=_PROMPTED,
        faults=_FAULTS,
        tag="agents",
    ),
    Operation(
        method="GET",
        path=f"{PATH}/tasks",
        name="readTasks",
        summary="See the tasks of a sandbox's agent, or one of them",
        description="Newest first. With `taskId` the task alone, without `items`.",
        scope=Scope.EXEC,
        kind=CallKind.READ,
        handler=read,
        query=OfTasks,
        body=Nothing,
        answers={200: Answer("A page, or the task.", shapes.TasksShape)},
        faults=frozenset({404}),
        tag="agents",
    ),
    Operation(
        method="GET",
        path=f"{PATH}/tasks/events",
        name="watchTask",
        summary="Watch a task",
        description="Server-sent events `started`, `text`, `tool`, `retry`, `asked`, `interrupted`, `completed`, "
        "`failed`, in order from the first or behind `Last-Event-ID`, and at last `task`, as a read has it. A comment "
        "every 15 s of silence.",
        scope=Scope.EXEC,
        kind=CallKind.READ,
        handler=watch,
        query=OfTask,
        body=Nothing,
        answers={200: Answer("The events.", media=None, events=shapes.TaskEventShape)},
        headers={"Last-Event-ID": "The `n` behind which to go on."},
        faults=frozenset({404}),
        tag="agents",
    ),
    Operation(
        method="POST",
        path=f"{PATH}/tasks/cancel",
        name="cancelTask",
        summary="Have a task not go on",
        description="It is `failed` with the reason `cancelled` at once, unless it had come to its end; the agent "
        "stops within a moment.",
        scope=Scope.EXEC,
        kind=CallKind.PROMPT,
        handler=cancel,
        query=Nothing,
        body=CancelBody,
        answers=_PROMPTED,
        faults=frozenset({404}),
        tag="agents",
    ),
)
