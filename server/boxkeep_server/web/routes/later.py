"""What is asked for and not there yet: its fields are checked as they will be, then a 501 names it."""

from typing import Annotated, Any

from pydantic import Field
from starlette.responses import Response

from boxkeep_server.model.errors import NotBuilt
from boxkeep_server.model.rates import CallKind
from boxkeep_server.model.scopes import Scope
from boxkeep_server.web import shapes
from boxkeep_server.web.fields import Fields, Nothing, Query, Text
from boxkeep_server.web.operations import Answer, AnyOperation, Call, Operation

SandboxId = Annotated[Text, Field(min_length=1)]
Id = Annotated[Text, Field(min_length=1, max_length=200)]
Words = Annotated[Text, Field(min_length=1, max_length=100_000)]
Note = Annotated[Text, Field(max_length=10_000)]
Url = Annotated[Text, Field(max_length=2048, pattern="^https?://")]
Port = Annotated[int, Field(ge=1, le=65535)]


class OfSandbox(Query):
    """A sandbox."""

    id: SandboxId


class OfTask(OfSandbox):
    """A sandbox, and one task of it."""

    task_id: Id | None = None


class InSandbox(Fields):
    """A sandbox."""

    id: SandboxId


class Prompt(InSandbox):
    """Something for the agent to do."""

    prompt: Words
    agent: Annotated[Text, Field(max_length=200)] | None = None
    metadata: dict[str, str] | None = None


class CancelTask(InSandbox):
    """A task to be given up."""

    task_id: Id


async def _refused(call: Call, query: Fields, body: Fields, feature: str) -> Response:
    """Say that a feature is not there; where a sandbox is named it must be the caller's."""
    sandbox_id = getattr(body, "id", None) or getattr(query, "id", None)
    if isinstance(body, InSandbox) or isinstance(query, OfSandbox):
        await call.parts.sandboxes.get(call.caller, str(sandbox_id))
    raise NotBuilt(f"{feature} not available on this server yet")


def _later(
    method: str,
    path: str,
    name: str,
    feature: str,
    scope: Scope,
    kind: CallKind = CallKind.READ,
    *,
    query: type[Fields] = Nothing,
    body: type[Fields] = Nothing,
) -> AnyOperation:
    async def handler(call: Call, asked: Any, wished: Any) -> Response:
        return await _refused(call, asked, wished, feature)

    return Operation(
        method=method,
        path=path,
        name=name,
        summary=f"Not there yet: {feature.removesuffix(' are').removesuffix(' is').lower()}",
        scope=scope,
        kind=kind,
        handler=handler,
        query=query,
        body=body,
        answers={501: Answer("Not there yet.", shapes.ErrorShape)},
        faults=frozenset({404}),
        tag="later",
    )


_S = "/v1/sandboxes"
_AGENTS = "Agents are"

OPERATIONS: tuple[AnyOperation, ...] = (
    _later("POST", f"{_S}/opencode/prompt", "prompt", _AGENTS, Scope.EXEC, CallKind.PROMPT, body=Prompt),
    _later("POST", f"{_S}/opencode/tasks", "createTask", _AGENTS, Scope.EXEC, CallKind.PROMPT, body=Prompt),
    _later("GET", f"{_S}/opencode/tasks", "readTasks", _AGENTS, Scope.EXEC, query=OfTask),
    _later("POST", f"{_S}/opencode/tasks/cancel", "cancelTask", _AGENTS, Scope.EXEC, CallKind.PROMPT, body=CancelTask),
)
