"""The OpenAPI document, made from the operations' declarations: every path, status, error body and scope."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from boxkeep_server.web import shapes
from boxkeep_server.web.fields import Fields
from boxkeep_server.web.idempotent import LONGEST_KEY
from boxkeep_server.web.operations import Answer, AnyOperation, OpenOperation

ALWAYS = (400, 401, 403, 413, 429, 500, 503)
REFS = "#/components/schemas/{model}"

_IDEMPOTENT = (
    "The same key with the same request gets the first answer again, for 24 hours, with `Idempotent-Replayed: true`; "
    "with another request it is a 409. Refusals are not kept; "
    "of a streamed command the stream is sent again."
)
_IDEMPOTENT_SECRETLY = "The answer carries a token and is not kept: the same request again gets another."
_RETRY = {"Retry-After": "After how many seconds to try again."}
_FAULT_HEADERS = {
    401: {"WWW-Authenticate": "`Bearer`."},
    416: {"Content-Range": "How large the file is."},
    429: _RETRY
    | {"Retry-After": "After how many seconds to try again; not there where a limit of the plan is reached."},
    503: _RETRY,
}

Json = dict[str, Any]
Names = Mapping[Any, str]


def document(operations: Iterable[AnyOperation], opened: Iterable[OpenOperation]) -> Json:
    """The whole document; the same declarations give the same document."""
    operations, opened = list(operations), list(opened)
    names, schemas = _schemas(operations, opened)
    paths: dict[str, Json] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, names, schemas)
    for open_operation in opened:
        paths[open_operation.path] = {"get": _open_operation(open_operation, names)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Boxkeep",
            "version": "1",
            "description": "Isolated Linux sandboxes for code and agents. JSON is camelCase, times are integer ms "
            "since the epoch. Clients must ignore response fields that they do not know.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "An API key, `br_live_…`."},
                "token": {"type": "apiKey", "in": "query", "name": "token", "description": "A signed URL's token."},
            },
        },
        "security": [{"key": []}],
    }


def _schemas(operations: list[AnyOperation], opened: list[OpenOperation]) -> tuple[Names, Json]:
    answers = [a for o in operations for a in o.answers.values()] + [a for o in opened for a in o.answers.values()]
    shown = [model for answer in answers for model in (answer.model, answer.events, answer.lines) if model is not None]
    wished: list[type[BaseModel]] = [o.query for o in operations] + [o.body for o in operations]
    pairs: list[tuple[Any, Any]] = [(kind, "serialization") for kind in dict.fromkeys([shapes.ErrorShape, *shown])]
    pairs.extend((kind, "validation") for kind in dict.fromkeys(wished))
    found, definitions = models_json_schema(pairs, by_alias=True, ref_template=REFS)
    names = {kind: reference["$ref"].rpartition("/")[2] for (kind, _), reference in found.items()}
    return names, _sorted(definitions.get("$defs", {}))


def _sorted(value: Json) -> Json:
    return {name: value[name] for name in sorted(value)}


def _operation(operation: AnyOperation, names: Names, schemas: Json) -> Json:
    described: Json = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.tag],
        "x-scope": operation.scope.value,
        "x-rate": operation.kind.value,
        "parameters": _parameters(operation, schemas[names[operation.query]]),
        "responses": _responses(operation.answers, names) | _faults(operation),
    }
    if operation.description:
        described["description"] = operation.description
    if operation.takes_json:
        content = {"application/json": {"schema": _ref(names[operation.body])}}
        described["requestBody"] = {"required": bool(_required(operation.body)), "content": content}
    if operation.raw:
        content = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        described["requestBody"] = {"required": False, "content": content}
    if operation.token is not None:
        described["security"] = [{"key": []}, {"token": []}]
    return described


def _required(kind: type[Fields]) -> list[str]:
    return [name for name, field in kind.model_fields.items() if field.is_required()]


def _parameters(operation: AnyOperation, query: Json) -> list[Json]:
    required = query.get("required", [])
    found: list[Json] = [
        {"name": name, "in": "query", "required": name in required, "schema": _without_null(schema)}
        for name, schema in query.get("properties", {}).items()
    ]
    heeded = dict(operation.headers)
    if operation.method == "POST":
        heeded["Idempotency-Key"] = _IDEMPOTENT_SECRETLY if operation.secret else _IDEMPOTENT
    return found + [_header_parameter(name, about) for name, about in heeded.items()]


def _header_parameter(name: str, about: str) -> Json:
    schema: Json = {"type": "string"}
    if name == "Idempotency-Key":
        schema |= {"minLength": 1, "maxLength": LONGEST_KEY, "pattern": "^[ -~]+$"}
    return {"name": name, "in": "header", "required": False, "schema": schema, "description": about}


def _without_null(schema: Json) -> Json:
    """A query field's schema: it may be absent, but text is never null."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if not choices:
        return {name: value for name, value in schema.items() if name not in ("title", "default")}
    return choices[0] if len(choices) == 1 else {"anyOf": choices}


def _responses(answers: Mapping[int, Answer], names: Names) -> Json:
    return {str(status): _response(answer, names) for status, answer in answers.items()}


def _response(answer: Answer, names: Names) -> Json:
    described: Json = {"description": answer.description, "headers": _headers(answer.headers)}
    content: Json = {}
    if answer.media is not None:
        schema: Json = {"type": "string"} if answer.model is None else _ref(names[answer.model])
        content[answer.media] = {"schema": schema}
    if answer.events is not None:
        content["text/event-stream"] = {"schema": _event(names[answer.events])}
    if answer.lines is not None:
        content["application/x-ndjson"] = {"schema": {"type": "string", "contentSchema": _ref(names[answer.lines])}}
    return described | ({"content": content} if content else {})


def _event(name: str) -> Json:
    """One server-sent event of a stream."""
    data: Json = {"type": "string", "contentMediaType": "application/json", "contentSchema": _ref(name)}
    return {"type": "object", "properties": {"id": {"type": "string"}, "event": {"type": "string"}, "data": data}}


def _headers(more: Mapping[str, str]) -> Json:
    told = {"X-Request-Id": "Names the request in the service's log.", **more}
    return {name: {"description": about, "schema": {"type": "string"}} for name, about in told.items()}


def _faults(operation: AnyOperation) -> Json:
    idempotent = {409} if operation.method == "POST" else set()
    statuses = sorted({*ALWAYS, *operation.faults, *idempotent})
    return {str(status): _fault(status) for status in statuses if status not in operation.answers}


def _fault(status: int) -> Json:
    content = {"application/json": {"schema": _ref("ErrorShape")}}
    headers = _headers(_FAULT_HEADERS.get(status, {}))
    return {"description": HTTPStatus(status).phrase, "headers": headers, "content": content}


def _open_operation(operation: OpenOperation, names: Names) -> Json:
    return {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": ["service"],
        "security": [],
        "responses": _responses(operation.answers, names) | {"500": _fault(500)},
    }


def _ref(name: str) -> Json:
    return {"$ref": REFS.format(model=name)}
