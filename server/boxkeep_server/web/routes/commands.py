"""Commands and code: run to the end, streamed, or in the background."""

import base64
import codecs
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from starlette.responses import Response

from boxkeep_server.control.launches import Launch, Output, Result
from boxkeep_server.model.commands import Command, Outcome
from boxkeep_server.model.errors import BoxkeepError, Invalid
from boxkeep_server.model.rates import CallKind
from boxkeep_server.model.sandboxes import Runtime
from boxkeep_server.model.scopes import Scope
from boxkeep_server.web import shapes
from boxkeep_server.web.event_streams import EventStream, encode_event
from boxkeep_server.web.fields import Fields, Nothing, Text, decode_base64, sentence
from boxkeep_server.web.operations import Answer, AnyOperation, Call, Operation
from boxkeep_server.web.views import json_response
from boxkeep_server.web.wishes import Env

FOREGROUND_MS = 300_000
LONGEST_MS = 365 * 86_400_000
MOST_ARGS = 4096
LONGEST_ARG = 131_071
LONGEST_PATH = 4096
LONGEST_INPUT = 10 << 20
EXEC_BODY = 24 << 20

Encoding = Literal["utf-8", "base64"]
Language = Literal["typescript", "javascript", "python", "sh", "bash"]


def _fits_argv(value: object) -> object:
    if isinstance(value, str) and len(value.encode()) > LONGEST_ARG:
        raise sentence(f"Invalid command or args: each must have at most {LONGEST_ARG} bytes")
    return value


Arg = Annotated[Text, BeforeValidator(_fits_argv)]
SandboxId = Annotated[Text, Field(min_length=1)]
Timeout = Annotated[int, Field(ge=1, le=LONGEST_MS)]
Cwd = Annotated[Text, Field(min_length=1, max_length=LONGEST_PATH)]
User = Annotated[Text, Field(min_length=1, max_length=256)]


class _Run(Fields):
    """What every way of running something takes."""

    id: SandboxId
    timeout: Timeout | None = None
    cwd: Cwd | None = None
    env: Env | None = Field(default=None, repr=False)
    user: User | None = None
    background: bool | None = None
    stream: bool | None = None
    encoding: Encoding | None = None

    def model_post_init(self, _: Any) -> None:
        """One way of answering.

        Raises:
            Invalid: two are asked for.
        """
        if self.background and self.stream:
            raise Invalid("background and stream exclude each other: follow a background command by its output")

    @property
    def timeout_ms(self) -> int | None:
        """Its time; in the background there is none unless it is given."""
        return self.timeout if self.background or self.timeout is not None else FOREGROUND_MS


class ExecBody(_Run):
    """A command: a line for a shell, or with `args` a program and its arguments."""

    command: Annotated[Arg, Field(min_length=1)]
    args: Annotated[list[Arg], Field(max_length=MOST_ARGS)] | None = None
    stdin: str | None = Field(default=None, repr=False)
    stdin_encoding: Encoding | None = None


class CodeBody(_Run):
    """Code in the language of the sandbox's runtime, or in the one that is named."""

    code: Annotated[Text, Field(min_length=1)] = Field(repr=False)
    language: Language | None = None


LANGUAGE_OF: dict[Runtime, Language] = {"bun": "typescript", "python": "python", "base": "sh"}
INTERPRETERS: dict[Language, tuple[str, ...]] = {
    "typescript": ("bun", "run", "-"),
    "javascript": ("bun", "run", "-"),
    "python": ("python3", "-"),
    "sh": ("sh", "-c", 'eval "$(cat)"'),
    "bash": ("bash", "-lc", 'eval "$(cat)"'),
}
"""Each reads all of its code from standard input before it runs any of it, so that no file is left behind."""


async def execute(call: Call, _: Nothing, body: ExecBody) -> Response:
    """Run a command."""
    return await _perform(call, body, _launch_of(body))


async def code(call: Call, _: Nothing, body: CodeBody) -> Response:
    """Run code."""
    sandbox = await call.parts.sandboxes.get(call.caller, body.id)
    language = body.language or LANGUAGE_OF[sandbox.runtime]
    command, *args = INTERPRETERS[language]
    launch = Launch(
        kind="code",
        command=command,
        args=tuple(args),
        cwd=body.cwd,
        user=body.user or "root",
        env=body.env or {},
        stdin=body.code.encode(),
        timeout_ms=body.timeout_ms,
        background=bool(body.background),
        line=f"code ({language})",
    )
    return await _perform(call, body, launch)


def _launch_of(body: ExecBody) -> Launch:
    return Launch(
        kind="exec",
        command=body.command,
        args=None if body.args is None else tuple(body.args),
        cwd=body.cwd,
        user=body.user or "root",
        env=body.env or {},
        stdin=_stdin_of(body),
        keep_stdin=bool(body.background) and body.stdin is None,
        timeout_ms=body.timeout_ms,
        background=bool(body.background),
    )


def _stdin_of(body: ExecBody) -> bytes | None:
    if body.stdin is None:
        return None
    data = decode_base64(body.stdin, "stdin") if body.stdin_encoding == "base64" else body.stdin.encode()
    if len(data) > LONGEST_INPUT:
        raise Invalid(f"Invalid stdin: must have at most {LONGEST_INPUT} bytes")
    return data


async def _perform(call: Call, body: _Run, launch: Launch) -> Response:
    commands, encoding = call.parts.commands, body.encoding or "utf-8"
    if body.background:
        command = await commands.launch(call.caller, body.id, launch, call.effect)
        return json_response({"id": body.id, "processId": command.id})
    if not body.stream:
        return json_response(result_view(await commands.run(call.caller, body.id, launch, call.effect), encoding))
    watched = commands.stream(call.caller, body.id, launch, call.effect)
    begun = await anext(watched)
    return EventStream(_events(begun, watched, encoding))


async def _events(
    begun: Command | Output | Result, watched: AsyncGenerator[Command | Output | Result, None], encoding: Encoding
) -> AsyncGenerator[bytes, None]:
    decoders = {"stdout": Decoder(encoding), "stderr": Decoder(encoding)}
    async with aclosing(watched):
        if isinstance(begun, Command):
            yield encode_event("start", {"id": begun.sandbox, "processId": begun.id})
        try:
            async for item in watched:
                if isinstance(item, Output):
                    if text := decoders[item.stream].feed(item.data):
                        yield encode_event(item.stream, {"data": text, "encoding": encoding})
                elif isinstance(item, Result):
                    for stream, decoder in decoders.items():
                        if text := decoder.end():
                            yield encode_event(stream, {"data": text, "encoding": encoding})
                    yield encode_event("exit", ending_view(item.command))
        except BoxkeepError as error:
            yield encode_event("error", error.body())


class Decoder:
    """Turns pieces of a byte stream into text: UTF-8 across pieces with U+FFFD for what is none, or base64."""

    def __init__(self, encoding: Encoding) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace") if encoding == "utf-8" else None

    def feed(self, data: bytes) -> str:
        """The text of a piece; what may yet become a character is kept back."""
        return base64.b64encode(data).decode() if self._utf8 is None else self._utf8.decode(data)

    def end(self) -> str:
        """The text of what was kept back."""
        return "" if self._utf8 is None else self._utf8.decode(b"", final=True)


def ending_view(command: Command) -> dict[str, object]:
    """How a command ended."""
    return {
        "id": command.sandbox,
        "processId": command.id,
        "outcome": command.outcome,
        "exitCode": command.exit_code,
        "signal": command.signal,
        "reason": command.reason,
        "stdoutBytes": command.stdout_bytes,
        "stderrBytes": command.stderr_bytes,
        "timedOut": command.outcome is Outcome.TIMED_OUT,
        "durationMs": (command.ended_at or command.started_at) - command.started_at,
    }


def result_view(result: Result, encoding: Encoding) -> dict[str, object]:
    """How a command ended, and the end of what it wrote."""
    return {
        **ending_view(result.command),
        "stdout": encoded(result.stdout, encoding),
        "stderr": encoded(result.stderr, encoding),
        "stdoutBytes": max(result.command.stdout_bytes or 0, len(result.stdout)),
        "stderrBytes": max(result.command.stderr_bytes or 0, len(result.stderr)),
        "encoding": encoding,
        "truncated": result.truncated,
    }


def encoded(data: bytes, encoding: Encoding) -> str:
    """Bytes as JSON can carry them."""
    return base64.b64encode(data).decode() if encoding == "base64" else data.decode("utf-8", "replace")


_FAULTS = frozenset({404, 409, 502, 503, 504})
_ANSWERS = {
    200: Answer(
        "How it ended; with `background` its id; with `stream` server-sent events `start`, `stdout`, `stderr`, `exit`, "
        "or at last `error`.",
        shapes.ExecShape,
        events=shapes.CommandEventShape,
    )
}

OPERATIONS: tuple[AnyOperation, ...] = (
    Operation(
        method="POST",
        path="/v1/sandboxes/exec",
        name="exec",
        summary="Run a command",
        description="Without `args` the command is a line for `bash -lc`; with `args` it is a program that is run "
        "without a shell. Once it has started the answer is a 200, however it ends. A dropped connection does not "
        "end it; its timeout does, with all that it started.",
        scope=Scope.EXEC,
        kind=CallKind.EXEC,
        handler=execute,
        query=Nothing,
        body=ExecBody,
        body_limit=EXEC_BODY,
        answers=_ANSWERS,
        faults=_FAULTS,
        tag="commands",
    ),
    Operation(
        method="POST",
        path="/v1/sandboxes/code",
        name="code",
        summary="Run code",
        description="TypeScript with top-level await, Python or shell, by the sandbox's runtime or as `language` says. "
        "No file is left behind.",
        scope=Scope.EXEC,
        kind=CallKind.EXEC,
        handler=code,
        query=Nothing,
        body=CodeBody,
        body_limit=EXEC_BODY,
        answers=_ANSWERS,
        faults=_FAULTS,
        tag="commands",
    ),
)
