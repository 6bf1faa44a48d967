"""What becomes of a conversion, by what the program in the sandbox says of it, which may be anything."""

from typing import Any, cast

import pytest

from boxkeep_server.control.artifacts import Artifacts
from boxkeep_server.control.commands import Commands
from boxkeep_server.control.documents import Conversion, Converted, Documents
from boxkeep_server.control.keys import Caller
from boxkeep_server.control.launches import Launch, Result
from boxkeep_server.control.record import Recorder
from boxkeep_server.control.sandboxes import Sandboxes
from boxkeep_server.model.commands import Command, Outcome
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
from boxkeep_server.model.plans import BUILT_IN

CALLER = cast(Caller, type("Caller", (), {"key_id": "k" * 32, "plan": BUILT_IN["unlimited"], "organisation": "o" * 32}))
SUM = "0" * 64
WISH = Conversion("/workspace/a.docx", "pdf")


class Inside:
    """Everything that documents need: a sandbox, a command that ends as a test says, and notes."""

    def __init__(self, said: bytes = b"", outcome: Outcome = Outcome.EXITED, code: int | None = 0) -> None:
        self.said, self.outcome, self.code = said, outcome, code
        self.id, self.organisation = "s" * 32, "o" * 32
        self.capabilities: dict[str, Any] = {"documents": {"libreofficeHeadless": True}}
        self.launched: list[Launch] = []
        self.notes: list[Note] = []

    async def get(self, _caller: Caller, _sandbox: str) -> "Inside":
        return self

    async def run(self, _caller: Caller, sandbox: str, launch: Launch, process: str | None) -> Result:
        self.launched.append(launch)
        command = Command(
            id="p" * 32,
            sandbox=sandbox,
            organisation=self.organisation,
            epoch=1,
            kind=launch.kind,
            line=launch.shown,
            cwd="/",
            user=launch.user,
            background=False,
            pty=False,
            timeout_ms=launch.timeout_ms,
            started_at=1000,
            started_by="k" * 32,
            ended_at=1250,
            outcome=self.outcome,
            exit_code=self.code,
        )
        return Result(command, self.said, b"")

    async def note(self, note: Note) -> None:
        self.notes.append(note)


async def converted(inside: Inside, wish: Conversion = WISH) -> Converted:
    documents = Documents(
        sandboxes=cast(Sandboxes, inside),
        commands=cast(Commands, inside),
        artifacts=cast(Artifacts, None),
        recorder=cast(Recorder, inside),
        now_ms=lambda: 2000,
    )
    return await documents.convert(CALLER, inside.id, wish)


async def test_a_result_is_told_and_noted() -> None:
    inside = Inside(b'{"size": 7, "sha256": "%s"}\n' % SUM.encode())
    made = await converted(inside)
    assert made == Converted("/workspace/a.pdf", "pdf", 7, SUM, 250, None)
    (note,) = inside.notes
    assert note.type is EventType.DOCUMENT_CONVERTED
    assert note.data["outputPath"] == "/workspace/a.pdf"
    (launch,) = inside.launched
    assert launch.shown == "convert /workspace/a.docx to /workspace/a.pdf"


@pytest.mark.parametrize(
    "said",
    [
        *(b"", b"nonsense", b"[]", b"null", b'{"size": 1}', b'{"sha256": "0"}', b'{"refused": 3}', b"\xff\xfe"),
        *(b'{"refused": "made up"}', b'{"refused": "failed"}', b'{"size": -1, "sha256": "%s"}' % SUM.encode()),
        *(b'{"size": "7", "sha256": "%s"}' % SUM.encode(), b'{"size": 1, "sha256": "%s", "x": 1}' % SUM.encode()),
        *(b"{" * 100_000, b'{"refused": "%s"}' % (b"x" * 100_000)),
    ],
)
async def test_rubbish_is_a_fault_of_the_sandbox_and_notes_nothing(said: bytes) -> None:
    inside = Inside(said)
    with pytest.raises(SandboxFault):
        await converted(inside)
    assert not inside.notes


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("not_found", NotFound),
        ("no_file", Invalid),
        ("too_large", TooLarge),
        ("not_that_format", Invalid),
        ("damaged", Invalid),
        ("protected", Invalid),
        ("crashed", Invalid),
        ("not_written", Invalid),
        ("no_such_page", Invalid),
        ("bad_output", Invalid),
        ("no_space", NoSpace),
        ("no_office", Unavailable),
    ],
)
async def test_each_refusal_has_words_of_our_own(word: str, kind: type[BoxkeepError]) -> None:
    with pytest.raises(kind) as refused:
        await converted(Inside(b'{"refused": "%s"}' % word.encode()))
    assert refused.value.sentence[0].isupper()
    assert "_" not in refused.value.sentence


@pytest.mark.parametrize(
    ("outcome", "code", "kind"),
    [
        (Outcome.EXITED, 1, SandboxFault),
        (Outcome.EXITED, 127, SandboxFault),
        (Outcome.SIGNALLED, 137, SandboxFault),
        (Outcome.CANCELLED, None, SandboxFault),
        (Outcome.TIMED_OUT, None, TimedOut),
        (Outcome.OUT_OF_MEMORY, 137, Invalid),
        (Outcome.SANDBOX_ENDED, None, NotReady),
        (Outcome.LOST_ON_FILES_PAUSE, None, NotReady),
        (Outcome.ROLLED_BACK, None, NotReady),
    ],
)
async def test_however_the_program_ends_it_is_told(
    outcome: Outcome, code: int | None, kind: type[BoxkeepError]
) -> None:
    with pytest.raises(kind):
        await converted(Inside(b'{"size": 7, "sha256": "%s"}' % SUM.encode(), outcome, code))


async def test_without_the_capability_nothing_is_run() -> None:
    inside = Inside()
    inside.capabilities = {"documents": {"libreofficeHeadless": False}}
    with pytest.raises(Conflict, match="libreofficeHeadless true"):
        await converted(inside)
    assert not inside.launched
