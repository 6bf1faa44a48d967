"""What is asked for and not there yet: its fields are checked as they will be, then a 501 names it."""

from typing import Annotated, Any, Literal

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


class StartPreview(InSandbox):
    """A preview to be started."""

    url: Annotated[Text, Field(max_length=2048)] | None = None
    port: Port | None = None


class Navigate(InSandbox):
    """Where a preview is to go."""

    url: Url


class Resize(InSandbox):
    """A preview's new size in pixels."""

    width: Annotated[int, Field(ge=100, le=7680)]
    height: Annotated[int, Field(ge=100, le=4320)]


class Handoff(InSandbox):
    """A request for a person's help."""

    reason: Literal["mfa", "captcha", "approval", "login_failed", "ambiguous_ui", "file_download", "custom"]
    message: Note
    resume_prompt: Note | None = None
    expires_in_ms: Annotated[int, Field(ge=1)] | None = None


class Accept(InSandbox):
    """Who takes over."""

    controller: Annotated[Text, Field(min_length=1, max_length=200)]


class Complete(InSandbox):
    """What the person did."""

    note: Note | None = None


class Prompt(InSandbox):
    """Something for the agent to do."""

    prompt: Words
    agent: Annotated[Text, Field(max_length=200)] | None = None
    metadata: dict[str, str] | None = None


class CancelTask(InSandbox):
    """A task to be given up."""

    task_id: Id


class Convert(InSandbox):
    """A document to be converted."""

    path: Annotated[Text, Field(min_length=1, max_length=4096)]
    format: Annotated[Text, Field(min_length=1, max_length=20)]
    output_path: Annotated[Text, Field(min_length=1, max_length=4096)] | None = None


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
_PREVIEWS = "Previews are"
_HANDOFF, _AGENTS = "Handoffs are", "Agents are"

OPERATIONS: tuple[AnyOperation, ...] = (
    _later("GET", f"{_S}/preview", "readPreview", _PREVIEWS, Scope.EXEC, query=OfSandbox),
    _later("POST", f"{_S}/preview/start", "startPreview", _PREVIEWS, Scope.EXEC, CallKind.EXEC, body=StartPreview),
    _later("POST", f"{_S}/preview/navigate", "navigatePreview", _PREVIEWS, Scope.EXEC, CallKind.EXEC, body=Navigate),
    _later("POST", f"{_S}/preview/resize", "resizePreview", _PREVIEWS, Scope.EXEC, CallKind.EXEC, body=Resize),
    _later("GET", f"{_S}/preview/viewer", "previewViewer", _PREVIEWS, Scope.EXEC, query=OfSandbox),
    _later("POST", f"{_S}/handoff", "requestHandoff", _HANDOFF, Scope.MANAGE, CallKind.EXEC, body=Handoff),
    _later("GET", f"{_S}/handoff", "readHandoff", _HANDOFF, Scope.MANAGE, query=OfSandbox),
    _later("POST", f"{_S}/handoff/accept", "acceptHandoff", _HANDOFF, Scope.MANAGE, CallKind.EXEC, body=Accept),
    _later("POST", f"{_S}/handoff/complete", "completeHandoff", _HANDOFF, Scope.MANAGE, CallKind.EXEC, body=Complete),
    _later("POST", f"{_S}/handoff/cancel", "cancelHandoff", _HANDOFF, Scope.MANAGE, CallKind.EXEC, body=InSandbox),
    _later("POST", f"{_S}/opencode/prompt", "prompt", _AGENTS, Scope.EXEC, CallKind.PROMPT, body=Prompt),
    _later("POST", f"{_S}/opencode/tasks", "createTask", _AGENTS, Scope.EXEC, CallKind.PROMPT, body=Prompt),
    _later("GET", f"{_S}/opencode/tasks", "readTasks", _AGENTS, Scope.EXEC, query=OfTask),
    _later("POST", f"{_S}/opencode/tasks/cancel", "cancelTask", _AGENTS, Scope.EXEC, CallKind.PROMPT, body=CancelTask),
    _later(
        "POST",
        f"{_S}/documents/convert",
        "convertDocument",
        "Document conversion is",
        Scope.FILES,
        CallKind.FILES,
        body=Convert,
    ),
)
