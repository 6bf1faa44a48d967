"""Sandboxes: create, read, list, change, end, pause and resume."""

import asyncio
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic.json_schema import SkipJsonSchema
from starlette.responses import Response

from boxkeep_server.model.errors import Invalid
from boxkeep_server.model.ids import ids_after, new_id
from boxkeep_server.model.plans import checked_duration
from boxkeep_server.model.rates import CallKind
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.model.scopes import Scope, permits
from boxkeep_server.model.statuses import ACTIVE, Status
from boxkeep_server.web import shapes
from boxkeep_server.web.capabilities import check_plan
from boxkeep_server.web.fields import Fields, Nothing, Query, QueryInt, Text, sentence
from boxkeep_server.web.operations import Answer, AnyOperation, Call, Operation
from boxkeep_server.web.parts import Caller
from boxkeep_server.web.routes.browsers import paired_browser
from boxkeep_server.web.terminal_urls import new_terminal_id, terminal_url
from boxkeep_server.web.views import agent as agent_view
from boxkeep_server.web.views import browser_preview, created, handoff_shown, json_response, listed, whole
from boxkeep_server.web.wishes import CreateBody, PatchBody

LONGEST_WAIT_MS = 300_000
WAIT_MS = 60_000
FILTER = "metadata."


class WaitQuery(Query):
    """Whether to answer at once, or when the sandbox is ready."""

    wait: Literal["ready"] | None = None
    timeout_ms: Annotated[QueryInt, Field(ge=0, le=LONGEST_WAIT_MS)] | None = None


class PauseQuery(Query):
    """Whether to answer at once, or when the sandbox is paused."""

    wait: Literal["paused"] | None = None
    timeout_ms: Annotated[QueryInt, Field(ge=0, le=LONGEST_WAIT_MS)] | None = None


class ReadQuery(Query):
    """One sandbox by `id`, or a page of all, newest first."""

    id: Annotated[Text, Field(min_length=1)] | None = None
    limit: Annotated[QueryInt, Field(ge=1, le=1000)] | None = None
    cursor: Annotated[Text, Field(max_length=200)] | None = None
    status: (
        Literal["queued", "assigning", "ready", "active", "pausing", "paused", "ending", "ended", "failed"] | None
    ) = None
    metadata: SkipJsonSchema[dict[str, str] | None] = None

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Put all of `metadata.<name>=<value>` into one field."""
        if "metadata" in fields:
            raise sentence("Unknown field 'metadata'. Filter by metadata.<name>=<value>")
        found = {name.removeprefix(FILTER): value for name, value in fields.items() if name.startswith(FILTER)}
        rest = {name: value for name, value in fields.items() if not name.startswith(FILTER)}
        return {**rest, "metadata": found} if found else rest


class DeleteQuery(Query):
    """The sandbox to end."""

    id: Annotated[Text, Field(min_length=1)] | None = None


class DeleteBody(Fields):
    """The sandbox to end, where the query does not name it."""

    id: Annotated[Text, Field(min_length=1)] | None = None


class IdBody(Fields):
    """A sandbox."""

    id: Annotated[Text, Field(min_length=1)]


class ResumeBody(IdBody):
    """A sandbox, and whether it goes on with the memory that is kept of it, as it does if nothing is said."""

    memory: bool | None = None


def _check_create(caller: Caller, body: CreateBody) -> None:
    checked_duration(body.max_duration_ms, caller.plan)


def _check_patch(caller: Caller, body: PatchBody) -> None:
    checked_duration(body.max_duration_ms, caller.plan)


async def create(call: Call, query: WaitQuery, body: CreateBody) -> Response:
    """Accept a sandbox."""
    if body.capabilities is not None:
        check_plan(body.capabilities, call.caller.plan)
    if body.count is not None:
        ids = ids_after(call.effect or new_id(), body.count)
        made = await call.parts.sandboxes.create_all(call.caller, body.wish(), ids)
        settled = await asyncio.gather(*(awaited(call, query, one) for one in made))
        return json_response({"items": [created(one) for one in settled]})
    sandbox = await call.parts.sandboxes.create(call.caller, body.wish(), call.effect)
    return json_response(created(await awaited(call, query, sandbox)))


async def awaited(call: Call, query: WaitQuery | PauseQuery, sandbox: Sandbox) -> Sandbox:
    """A sandbox as it is, or once what the query waits for is settled."""
    if query.wait is None:
        return sandbox
    timeout_ms = WAIT_MS if query.timeout_ms is None else query.timeout_ms
    return await call.parts.sandboxes.wait(call.caller, sandbox.id, timeout_ms)


async def read(call: Call, query: ReadQuery, _: Nothing) -> Response:
    """One sandbox, or a page of them."""
    if query.id is not None:
        return await _read_one(call, query.id)
    active = call.parts.active
    status = None if query.status is None else [Status.READY if query.status == ACTIVE else Status(query.status)]
    page = await call.parts.sandboxes.list(
        call.caller, limit=query.limit or 100, cursor=query.cursor, status=status, metadata=query.metadata
    )
    shown = [box for box in page.items if query.status != ACTIVE or active(box.id)]
    items = [listed(box, active(box.id)) for box in shown]
    return json_response({"items": items, "nextCursor": page.next_cursor})


async def _read_one(call: Call, sandbox_id: str) -> Response:
    sandbox, kept = await call.parts.artifacts.with_sandbox(call.caller.organisation, sandbox_id)
    url = None
    if sandbox.running and permits(call.caller.scopes, Scope.EXEC):
        url = terminal_url(call.parts, call.caller, sandbox.id, new_terminal_id(call.parts, sandbox.id)).url
    base = call.parts.preview_urls.base(sandbox.id)
    shown = whole(sandbox, call.parts.active(sandbox.id), url, base, kept)
    agent = await call.parts.agents.of(sandbox)
    opencode = None if agent is None else agent_view(agent)
    return json_response({**shown, "opencode": opencode, **await _browser(call, sandbox)})


async def _browser(call: Call, sandbox: Sandbox) -> dict[str, object]:
    """What there is of a sandbox's browser; nothing is asked for that was not wished."""
    browser = await call.parts.browsers.of(sandbox)
    if browser is None:
        return {}
    handoff = await call.parts.handoffs.latest(sandbox.id)
    return {
        "pairedBrowser": paired_browser(call, sandbox, browser, handoff),
        "browserPreview": browser_preview(browser, handoff),
        "humanHandoff": None if handoff is None else handoff_shown(handoff),
    }


async def end(call: Call, query: DeleteQuery, body: DeleteBody) -> Response:
    """End a sandbox, in whatever state it is; again is fine."""
    if query.id is not None and body.id is not None and query.id != body.id:
        raise Invalid("id is given in the query and in the body, and they differ")
    sandbox_id = query.id or body.id
    if sandbox_id is None:
        raise Invalid("id is required")
    await call.parts.sandboxes.end(call.caller, sandbox_id)
    return json_response({"ok": True})


async def change(call: Call, _: Nothing, body: PatchBody) -> Response:
    """Change what may be changed of a sandbox."""
    given = {name: getattr(body, name) for name in body.model_fields_set if name != "id"}
    sandbox = await call.parts.sandboxes.patch(call.caller, body.id, **given)
    return await _read_one(call, sandbox.id)


async def pause(call: Call, query: PauseQuery, body: IdBody) -> Response:
    """Have a sandbox paused."""
    sandbox = await call.parts.pausing.pause(call.caller, body.id)
    return json_response(created(await awaited(call, query, sandbox)))


async def resume(call: Call, query: WaitQuery, body: ResumeBody) -> Response:
    """Have a sandbox go on."""
    sandbox = await call.parts.pausing.resume(call.caller, body.id, memory=body.memory is not False)
    return json_response(created(await awaited(call, query, sandbox)))


PATH = "/v1/sandboxes"
_ONE = {200: Answer("The sandbox.", shapes.SandboxShape)}

OPERATIONS: tuple[AnyOperation, ...] = (
    Operation(
        method="POST",
        path=PATH,
        name="createSandbox",
        summary="Create a sandbox",
        description="Answers at once with `queued`; with `wait=ready` when it is ready or failed, or as it is when the "
        "time is up. `ephemeral: false` asks that checkpoints may be taken of the workspace; it does not keep it by "
        "itself. With `fromCheckpoint` it begins with all that the checkpoint has, of its runtime and isolation, under "
        "names of its own and with the `env` that is given here, with `memory: false` from its files alone; with "
        "`count` as many are made, all or none, and the answer is `{items: [...]}`.",
        scope=Scope.CREATE,
        kind=CallKind.CREATE,
        handler=create,
        query=WaitQuery,
        body=CreateBody,
        check=_check_create,
        answers={200: Answer("Accepted.", shapes.CreatedOrForks)},
        faults=frozenset({404, 501}),
    ),
    Operation(
        method="GET",
        path=PATH,
        name="readSandboxes",
        summary="Read one sandbox, or list all",
        description="With `id` one sandbox. Without it a page of the organisation's sandboxes, newest first; "
        "`metadata.<name>=<value>` filters.",
        scope=Scope.READ,
        kind=CallKind.READ,
        handler=read,
        query=ReadQuery,
        body=Nothing,
        answers={200: Answer("The sandbox, or a page.", shapes.SandboxOrList)},
        faults=frozenset({404}),
    ),
    Operation(
        method="DELETE",
        path=PATH,
        name="endSandbox",
        summary="End a sandbox",
        description="Legal in every state, and again. The id may come in the query or in the body.",
        scope=Scope.DELETE,
        kind=CallKind.DELETE,
        handler=end,
        query=DeleteQuery,
        body=DeleteBody,
        answers={200: Answer("It ends.", shapes.Ok)},
        faults=frozenset({404}),
    ),
    Operation(
        method="PATCH",
        path=PATH,
        name="changeSandbox",
        summary="Change a sandbox",
        description="`maxDurationMs` counts from now, within the plan.",
        scope=Scope.MANAGE,
        kind=CallKind.CREATE,
        handler=change,
        query=Nothing,
        body=PatchBody,
        check=_check_patch,
        answers=_ONE,
        faults=frozenset({404, 409}),
    ),
    Operation(
        method="POST",
        path=f"{PATH}/pause",
        name="pauseSandbox",
        summary="Pause a sandbox",
        description="It goes over `pausing` to `paused` and then holds no machine, no processor and no memory; it "
        "counts to neither hours nor concurrency. `pauseKeeps` says what goes on after a resume: processes with their "
        "memory, or files alone, in which case running commands end with `lost_on_files_pause`. Where it cannot be "
        "kept it is `ready` again, with the `reason`. Again is fine. With `wait=paused` it answers when that is "
        "settled.",
        scope=Scope.MANAGE,
        kind=CallKind.CREATE,
        handler=pause,
        query=PauseQuery,
        body=IdBody,
        answers={200: Answer("It pauses.", shapes.CreatedShape)},
        faults=frozenset({404, 409}),
    ),
    Operation(
        method="POST",
        path=f"{PATH}/resume",
        name="resumeSandbox",
        summary="Resume a paused sandbox",
        description="It is queued for a machine, within the plan's limits, and goes on from what was kept, with new "
        "addresses. After a pause by hand or for idleness it may run for what remained of its time, after one at the "
        "end of its time for a window anew. If that fails it is paused again, with the `reason`. With `memory: false` "
        "it goes on from its files alone, as where memory cannot be gone on from: commands that ran end with "
        "`lost_on_files_pause`, and the memory is given up once the sandbox is ready.",
        scope=Scope.MANAGE,
        kind=CallKind.CREATE,
        handler=resume,
        query=WaitQuery,
        body=ResumeBody,
        answers={200: Answer("It is queued.", shapes.CreatedShape)},
        faults=frozenset({404, 409}),
    ),
)
