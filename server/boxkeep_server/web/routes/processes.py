"""Commands under way or over: list, output, input, signals, waiting."""

import signal as signals
from collections.abc import AsyncIterator
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema
from starlette.responses import Response

from boxkeep_server.control.processes import Reading
from boxkeep_server.model.rates import CallKind
from boxkeep_server.model.scopes import Scope
from boxkeep_server.web import shapes
from boxkeep_server.web.event_streams import Streamed
from boxkeep_server.web.fields import Fields, Nothing, Query, QueryFlag, QueryInt, Text, decode_base64, sentence
from boxkeep_server.web.operations import Answer, AnyOperation, Call, Operation
from boxkeep_server.web.views import command as command_view
from boxkeep_server.web.views import json_response

WAIT_MS = 60_000
LONGEST_WAIT_MS = 300_000
INPUT_BODY = 16 << 20
STEP = 256 * 1024

SandboxId = Annotated[Text, Field(min_length=1)]
ProcessId = Annotated[Text, Field(min_length=1)]


def _signal(value: object) -> object:
    if isinstance(value, str):
        name = value.upper() if value.upper().startswith("SIG") else f"SIG{value.upper()}"
        value = getattr(signals.Signals, name, None)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 64:
        raise sentence("Invalid signal: must be a name such as TERM, or a number from 1 to 64")
    return int(value)


Signal = Annotated[
    int,
    BeforeValidator(_signal),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 64}, {"enum": [s.name for s in signals.Signals]}]}
    ),
]


class ListQuery(Query):
    """A sandbox's commands, newest first."""

    id: SandboxId
    limit: Annotated[QueryInt, Field(ge=1, le=1000)] | None = None
    cursor: Annotated[Text, Field(max_length=200)] | None = None


class OutputQuery(Query):
    """Which output, from where, and whether to go on until the command has finished."""

    id: SandboxId
    process_id: ProcessId
    stream: Literal["stdout", "stderr"] | None = None
    offset: Annotated[QueryInt, Field(ge=0)] | None = None
    length: Annotated[QueryInt, Field(ge=0)] | None = None
    follow: QueryFlag | None = None


class ProcessBody(Fields):
    """A command in a sandbox."""

    id: SandboxId
    process_id: ProcessId


class InputBody(ProcessBody):
    """Something for a command to read; `close` ends its input."""

    data: str | None = Field(default=None, repr=False)
    encoding: Literal["utf-8", "base64"] | None = None
    close: bool | None = None


class SignalBody(ProcessBody):
    """A signal, by default TERM to the whole tree. KILL records the outcome `cancelled`."""

    signal: Signal | None = None
    tree: bool | None = None


class WaitBody(ProcessBody):
    """How long to wait for a command to end."""

    timeout_ms: Annotated[int, Field(ge=0, le=LONGEST_WAIT_MS)] | None = None


async def list_(call: Call, query: ListQuery, _: Nothing) -> Response:
    """A page of commands."""
    page = await call.parts.processes.page(call.caller, query.id, query.cursor, query.limit or 100)
    return json_response({"items": [command_view(row) for row in page.items], "nextCursor": page.next_cursor})


async def output(call: Call, query: OutputQuery, _: Nothing) -> Response:
    """What a command wrote, as bytes."""
    reading = await call.parts.processes.read(
        call.caller,
        query.id,
        query.process_id,
        query.stream or "stdout",
        offset=query.offset or 0,
        length=query.length,
        follow=bool(query.follow),
    )
    return Streamed(reading.chunks, _output_headers(reading))


def _output_headers(reading: Reading) -> dict[str, str]:
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Disposition": "attachment",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Cache-Control": "no-store",
        "X-Output-Offset": str(reading.offset),
    }
    if reading.dropped is not None:
        headers["X-Output-Dropped"] = f"{reading.dropped[0]}-{reading.dropped[1]}"
    return headers


async def stdin(call: Call, _: Nothing, body: InputBody) -> Response:
    """Give a command something to read."""
    text = body.data or ""
    data = decode_base64(text, "data") if body.encoding == "base64" else text.encode()
    written = await call.parts.processes.write(
        call.caller, body.id, body.process_id, _pieces(data), close=bool(body.close)
    )
    return json_response({"written": written})


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), STEP):
        yield data[at : at + STEP]


async def signal(call: Call, _: Nothing, body: SignalBody) -> Response:
    """Send a signal."""
    number = signals.SIGTERM if body.signal is None else body.signal
    await call.parts.processes.signal(call.caller, body.id, body.process_id, int(number), tree=body.tree is not False)
    return json_response({"ok": True})


async def wait(call: Call, _: Nothing, body: WaitBody) -> Response:
    """Wait for a command to end."""
    within_ms = WAIT_MS if body.timeout_ms is None else body.timeout_ms
    row = await call.parts.processes.wait(call.caller, body.id, body.process_id, within_ms)
    return json_response(command_view(row))


PATH = "/v1/sandboxes/processes"
_OUTPUT_HEADERS = {
    "X-Output-Offset": "Where in the stream the bytes begin.",
    "X-Output-Dropped": "`from-to`: what of the stream is gone, if anything is.",
}
_FAULTS = frozenset({404, 409, 502, 503, 504})

OPERATIONS: tuple[AnyOperation, ...] = (
    Operation(
        method="GET",
        path=PATH,
        name="listProcesses",
        summary="List a sandbox's commands, newest first",
        scope=Scope.EXEC,
        kind=CallKind.EXEC,
        handler=list_,
        query=ListQuery,
        body=Nothing,
        answers={200: Answer("A page.", shapes.ProcessList)},
        faults=_FAULTS,
        tag="commands",
    ),
    Operation(
        method="GET",
        path=f"{PATH}/output",
        name="readOutput",
        summary="Read what a command wrote, from any offset",
        description="Bytes as they were written. `X-Output-Offset` says where they begin, `X-Output-Dropped` which "
        "range is gone because there was too much. With `follow=true` it goes on until the command has finished.",
        scope=Scope.EXEC,
        kind=CallKind.EXEC,
        handler=output,
        query=OutputQuery,
        body=Nothing,
        answers={200: Answer("The bytes.", None, "application/octet-stream", headers=_OUTPUT_HEADERS)},
        faults=_FAULTS,
        tag="commands",
    ),
    Operation(
        method="POST",
        path=f"{PATH}/stdin",
        name="writeInput",
        summary="Give a command something to read",
        scope=Scope.EXEC,
        kind=CallKind.EXEC,
        handler=stdin,
        query=Nothing,
        body=InputBody,
        body_limit=INPUT_BODY,
        answers={200: Answer("How much it took.", shapes.Written)},
        faults=_FAULTS,
        tag="commands",
    ),
    Operation(
        method="POST",
        path=f"{PATH}/signal",
        name="signalProcess",
        summary="Send a signal to a command",
        scope=Scope.EXEC,
        kind=CallKind.EXEC,
        handler=signal,
        query=Nothing,
        body=SignalBody,
        answers={200: Answer("Sent.", shapes.Ok)},
        faults=_FAULTS,
        tag="commands",
    ),
    Operation(
        method="POST",
        path=f"{PATH}/wait",
        name="waitForProcess",
        summary="Wait for a command to end",
        scope=Scope.EXEC,
        kind=CallKind.EXEC,
        handler=wait,
        query=Nothing,
        body=WaitBody,
        answers={200: Answer("The command, ended or as it is when the time is up.", shapes.ProcessShape)},
        faults=_FAULTS,
        tag="commands",
    ),
)
