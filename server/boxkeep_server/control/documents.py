"""Documents: files of a sandbox converted to another format, by the LibreOffice and poppler that its image has."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from boxkeep_server.control.artifacts import Artifacts
from boxkeep_server.control.commands import Commands
from boxkeep_server.control.files import Place
from boxkeep_server.control.keys import Caller
from boxkeep_server.control.launches import Launch, Result
from boxkeep_server.control.record import Recorder
from boxkeep_server.control.sandboxes import Sandboxes
from boxkeep_server.model.artifacts import Artifact
from boxkeep_server.model.commands import Outcome
from boxkeep_server.model.documents import Steps, beside, steps_to
from boxkeep_server.model.errors import (
    BoxkeepError,
    Conflict,
    Invalid,
    NoSpace,
    NotFound,
    NotReady,
    SandboxFault,
    TimedOut,
    TooLarge,
    Unavailable,
)
from boxkeep_server.model.events import EventType, Note
from boxkeep_server.model.images import software_for
from boxkeep_server.model.sandboxes import Sandbox

TIMEOUT_MS: Final = 120_000
TIMEOUT_MOST_MS: Final = 600_000

_PROGRAM: Final = resources.files("boxkeep_server.inside").joinpath("convert.py").read_bytes()
_EDITION: Final = hashlib.sha256(_PROGRAM).hexdigest()[:16]
_PYTHON: Final = "/usr/bin/python3"
_NO_DOCUMENTS: Final = "Sandbox has no documents: create it with capabilities.documents.libreofficeHeadless true"

_REFUSALS: Final[Mapping[str, Callable[[Steps], BoxkeepError]]] = {
    "not_found": lambda _: NotFound("File not found"),
    "no_file": lambda _: Invalid("Invalid path: not a regular file"),
    "too_large": lambda _: TooLarge("The document is larger than 1 GiB"),
    "not_that_format": lambda steps: Invalid(f"Invalid path: the file is no {steps.source}", code="DOCUMENT_DAMAGED"),
    "damaged": lambda _: Invalid(
        "The document cannot be read: it is damaged, or protected by a password", code="DOCUMENT_DAMAGED"
    ),
    "protected": lambda _: Invalid("The document is protected by a password", code="DOCUMENT_PROTECTED"),
    "crashed": lambda _: Invalid("LibreOffice has crashed on the document", code="DOCUMENT_DAMAGED"),
    "not_written": lambda steps: Invalid(
        f"The document cannot be written as {steps.target}", code="DOCUMENT_NOT_CONVERTIBLE"
    ),
    "no_such_page": lambda _: Invalid("Invalid page: the document has no such page"),
    "bad_output": lambda _: Invalid("Invalid outputPath: no file can be there"),
    "no_space": lambda _: NoSpace("The sandbox's disk is full"),
    "no_office": lambda _: Unavailable("LibreOffice does not start in the sandbox"),
}
"""What the program in the sandbox may answer instead of a result, in our words: its own are never passed on."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """A wish: a file of a sandbox as `format`, at `output_path` or beside it; also as an artifact, under `key`."""

    path: str
    format: str
    output_path: str | None = None
    page: int = 1
    timeout_ms: int = TIMEOUT_MS
    publish: bool = False
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Converted:
    """A document that was converted; `size` and `sha256` are as its sandbox says."""

    path: str
    format: str
    size: int
    sha256: str
    duration_ms: int
    artifact: Artifact | None


class _Said(BaseModel):
    """What the program in a sandbox says: a result, or why there is none."""

    model_config = ConfigDict(strict=True, extra="forbid")

    refused: Annotated[str, Field(max_length=40)] | None = None
    size: Annotated[int, Field(ge=0, lt=1 << 53)] = 0
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None


class Documents:
    """The use case."""

    def __init__(
        self,
        *,
        sandboxes: Sandboxes,
        commands: Commands,
        artifacts: Artifacts,
        recorder: Recorder,
        now_ms: Callable[[], int],
    ) -> None:
        self._sandboxes = sandboxes
        self._commands = commands
        self._artifacts = artifacts
        self._recorder = recorder
        self._now_ms = now_ms

    async def convert(self, caller: Caller, sandbox_id: str, wish: Conversion, effect: str | None = None) -> Converted:
        """Convert a file of a ready sandbox; what was at the output's place is replaced whole, or stays as it is.

        Raises:
            Invalid: the format cannot be had of this document, or it is damaged or protected; the sentence says which.
            SandboxNotFound, NotReady, NotFound: there is no such sandbox, it takes no calls, there is no such file.
            Conflict: its creator has not asked for documents.
            TimedOut: it took longer than `timeout_ms`; nothing of it runs on.
            TooLarge, NoSpace, LimitReached, SandboxFault, Unavailable
        """
        sandbox = await self._sandboxes.get(caller, sandbox_id)
        if "documents" not in software_for(sandbox.capabilities):
            raise Conflict(_NO_DOCUMENTS)
        steps = steps_to(wish.path, wish.format, wish.page)
        output = wish.output_path or beside(wish.path, steps.target)
        result = await self._commands.run(caller, sandbox_id, _launch(wish, steps, output), effect)
        said = _read(result, wish, steps)
        duration_ms = max(0, (result.command.ended_at or 0) - result.command.started_at)
        artifact = None
        if wish.publish:
            artifact = await self._artifacts.publish(
                caller, sandbox_id, Place(path=output), key=wish.key, artifact_id=effect
            )
        assert said.sha256 is not None, "a result has a sum"
        made = Converted(output, steps.target, said.size, said.sha256, duration_ms, artifact)
        await self._note(caller, sandbox, wish, made)
        return made

    async def _note(self, caller: Caller, sandbox: Sandbox, wish: Conversion, made: Converted) -> None:
        data = {
            "path": wish.path,
            "outputPath": made.path,
            "format": made.format,
            "size": made.size,
            "durationMs": made.duration_ms,
            "artifactKey": None if made.artifact is None else made.artifact.key,
        }
        kind, at = EventType.DOCUMENT_CONVERTED, self._now_ms()
        await self._recorder.note(Note(sandbox.id, sandbox.organisation, kind, at, caller.key_id, data))


def _launch(wish: Conversion, steps: Steps, output: str) -> Launch:
    request = json.dumps({**asdict(steps), "path": wish.path, "outputPath": output})
    return Launch(
        kind="exec",
        command=_PYTHON,
        args=("-I", "-", request, _EDITION),
        cwd="/",
        stdin=_PROGRAM,
        timeout_ms=wish.timeout_ms,
        line=f"convert {wish.path} to {output}"[:4096],
    )


def _read(result: Result, wish: Conversion, steps: Steps) -> _Said:
    """What came of a conversion.

    Raises:
        BoxkeepError: there is no result.
    """
    match result.command.outcome:
        case Outcome.EXITED if result.command.exit_code == 0:
            pass
        case Outcome.TIMED_OUT:
            raise TimedOut(f"The document was not converted within {wish.timeout_ms} ms")
        case Outcome.OUT_OF_MEMORY:
            raise Invalid("The document needs more memory than the sandbox has", code="DOCUMENT_NOT_CONVERTIBLE")
        case Outcome.SANDBOX_ENDED | Outcome.LOST_ON_FILES_PAUSE | Outcome.ROLLED_BACK:
            raise NotReady
        case _:
            raise SandboxFault
    try:
        said = _Said.model_validate_json(result.stdout)
    except ValidationError as error:
        raise SandboxFault from error
    if said.refused is not None:
        raise _REFUSALS[said.refused](steps) if said.refused in _REFUSALS else SandboxFault()
    if said.sha256 is None:
        raise SandboxFault
    return said
