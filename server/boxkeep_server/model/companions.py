"""Companions: programs of ours that accompany what runs in a sandbox, as a browser does, and what is known of them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel


def without_nul(text: str) -> str:
    """A text that any database takes."""
    return text.replace("\0", "\ufffd")


Name = Annotated[str, Field(max_length=32)]
Port = Annotated[int, Field(ge=1, le=65535)]
LINE_MOST: Final = 64 << 10


class CompanionState(StrEnum):
    """How a companion is."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Companion:
    """A sandbox's companion of one name.

    `attempt` counts the processes that it has been; what the present one has written is known up to the byte
    `heard_to`. `ports` are those of loopback inside that it said it serves, `facts` what else it has said of itself,
    both by name. `epoch` is that of the machine in which `state` was so.
    """

    sandbox: str
    organisation: str
    name: str
    epoch: int
    attempt: int
    heard_to: int
    state: CompanionState
    ports: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None
    updated_at: int = 0

    @property
    def process(self) -> str:
        """The id of its present process: the same in every sandbox, so that a fork of memory goes on with its own."""
        return hashlib.sha256(f"companion {self.name} {self.attempt}".encode()).hexdigest()[:32]

    def again(self) -> "Companion":
        """After the end of a process, before the next."""
        return replace(self, attempt=self.attempt + 1, heard_to=0, state=CompanionState.STARTING, ports={}, facts={})


class Said(BaseModel):
    """A line that a companion has written."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, alias_generator=to_camel)

    event: Literal["ready", "crashed", "failed", "fact", "done", "refused", "task"]
    order: Annotated[str, Field(max_length=64)] | None = None
    reason: Annotated[str, Field(max_length=2000), AfterValidator(without_nul)] | None = None
    ports: Annotated[dict[Name, Port], Field(max_length=8)] | None = None
    facts: Annotated[dict[Name, Annotated[str, Field(max_length=100)]], Field(max_length=8)] | None = None
    about: dict[str, Any] | None = None


FACTS_MOST: Final = 16


def read_said(line: bytes) -> Said | None:
    """What a line says; None for what says nothing that we know."""
    try:
        return Said.model_validate_json(line)
    except ValidationError:
        return None


def heard(before: Companion, said: Said) -> Companion:
    """The companion after it has said something."""
    match said.event:
        case "ready":
            return replace(before, state=CompanionState.READY, ports=said.ports or {}, reason=None)
        case "crashed":
            return replace(before, state=CompanionState.STARTING, ports={}, reason=said.reason)
        case "failed":
            return replace(before, state=CompanionState.FAILED, ports={}, reason=said.reason)
        case "fact":
            return replace(before, facts=dict([*before.facts.items(), *(said.facts or {}).items()][-FACTS_MOST:]))
    return before
