"""What a guest says of its processes and files, read as the hostile bytes they are: by schema, with bounds."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from boxkeep_server.model.commands import Outcome
from boxkeep_server.model.errors import SandboxFault

Count = Annotated[int, Field(ge=0, le=2**53)]
Line = Annotated[str, Field(max_length=1 << 20)]
Short = Annotated[str, Field(max_length=4096)]
Name = Annotated[str, Field(max_length=8192)]
Id = Annotated[str, Field(pattern="^[a-z0-9]{32}$")]


class FromGuest(BaseModel):
    """Something a guest says. Fields that we don't know are ignored: guests may be newer than we are."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, alias_generator=to_camel)


class Process(FromGuest):
    """A process as its guest describes it; times are the guest's and serve for durations alone."""

    id: Id
    state: Literal["running", "finished"]
    pid: Count | None = None
    command: Line = ""
    args: Annotated[list[Line], Field(max_length=4096)] | None = None
    cwd: Short | None = None
    user: Short | None = None
    background: bool = False
    pty: bool = False
    duration_ms: Count | None = None
    timeout_ms: Count | None = None
    outcome: Literal["exited", "signalled", "timed_out", "cancelled", "out_of_memory"] | None = None
    exit_code: Annotated[int, Field(ge=0, le=255)] | None = None
    signal: Annotated[int, Field(ge=1, le=64)] | None = None
    reason: Short | None = None
    stdout_bytes: Count = 0
    stderr_bytes: Count = 0
    dropped_bytes: Count = 0

    @property
    def finished(self) -> bool:
        """Whether it has ended."""
        return self.state == "finished"

    @property
    def ended_as(self) -> Outcome:
        """How it ended.

        Raises:
            SandboxFault: it claims to be finished without saying how.
        """
        if self.outcome is None:
            raise SandboxFault
        return Outcome(self.outcome)


class Entry(FromGuest):
    """A file, directory or link. Of a name that is not UTF-8 there is the base64 form instead."""

    name: Name | None = None
    path: Name | None = None
    type: Literal["file", "directory", "symlink", "other"]
    size: Count
    mode: Annotated[int, Field(ge=0, le=0o177777)]
    modified_at: Annotated[int, Field(ge=-(2**53), le=2**53)]
    uid: Count | None = None
    gid: Count | None = None
    target: Name | None = None
    name_base64: Name | None = None
    path_base64: Name | None = None
    target_base64: Name | None = None

    def shown(self) -> dict[str, object]:
        """What a client sees of it."""
        return self.model_dump(by_alias=True, exclude_none=True)


G = TypeVar("G", bound=FromGuest)


def read_as(kind: type[G], value: Any) -> G:
    """Something that a guest said, as `kind`.

    Raises:
        SandboxFault: it has not that form.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise SandboxFault from error


def read_count(value: Any) -> int:
    """A size or offset that a guest said.

    Raises:
        SandboxFault: it is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 2**53:
        raise SandboxFault
    return value


def read_process(message: Any) -> Process:
    """The process in an answer or a frame.

    Raises:
        SandboxFault: there is none.
    """
    if not isinstance(message, dict):
        raise SandboxFault
    return read_as(Process, message.get("process"))
