"""What an operation of the API is: one declaration from which dispatch, checks and the OpenAPI document are made."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from boxkeep_server.model.rates import CallKind
from boxkeep_server.model.scopes import Scope
from boxkeep_server.web.fields import Fields, Nothing
from boxkeep_server.web.json_bodies import ORDINARY_BODY
from boxkeep_server.web.parts import Caller, Parts
from boxkeep_server.web.shapes import carries_token
from boxkeep_server.web.tokens import Purpose

Q = TypeVar("Q", bound=Fields)
B = TypeVar("B", bound=Fields)


@dataclass(frozen=True, slots=True)
class Call:
    """One request under way: who asks, and the parts that answer.

    What it makes gets `effect` as its id, if there is one: the same request after a crash of ours makes it only once.
    """

    request: Request
    caller: Caller
    parts: Parts
    effect: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A way in which an operation succeeds. `model` documents a JSON body; other media are opaque bytes.

    `events` documents the data of the server-sent events that it may send instead, `lines` each of the JSON lines;
    `headers` those of its own.
    """

    description: str
    model: type[BaseModel] | None = None
    media: str | None = "application/json"
    events: type[BaseModel] | None = None
    lines: type[BaseModel] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation(Generic[Q, B]):
    """One method of one path.

    `check` holds what only the caller's plan can tell about a body (a 400 that comes before the scope's 403);
    `faults` are the error statuses beyond those that every operation has; `raw` bodies reach the handler unread;
    `headers` are the request's headers that it heeds, and what they mean.
    """

    method: str
    path: str
    name: str
    summary: str
    scope: Scope
    kind: CallKind
    handler: Callable[[Call, Q, B], Awaitable[Response]]
    query: type[Q]
    body: type[B]
    answers: Mapping[int, Answer]
    faults: frozenset[int] = frozenset()
    check: Callable[[Caller, B], None] | None = None
    body_limit: int = ORDINARY_BODY
    raw: bool = False
    token: Purpose | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    tag: str = field(default="sandboxes")

    @property
    def takes_json(self) -> bool:
        """Whether a JSON body belongs to it."""
        return self.body is not Nothing and not self.raw

    @property
    def secret(self) -> bool:
        """Whether an answer of it carries a token, as its shape says: then it is for its caller and kept nowhere."""
        return any(carries_token(answer.model) for answer in self.answers.values() if answer.model is not None)


AnyOperation = Operation[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenOperation:
    """A path of the service itself that asks for no key."""

    path: str
    name: str
    summary: str
    handler: Callable[[Request, Parts], Awaitable[Response]]
    answers: Mapping[int, Answer]
