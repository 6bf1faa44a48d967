"""The OpenAPI document: whole, valid, and with every route and scope of the contract."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest

from boxkeep_server.model.scopes import Scope
from boxkeep_server.web.app import OPERATIONS, described
from tests.api.stage import Stage

ROOT = Path(__file__).resolve().parent.parent.parent
S = "/v1/sandboxes"
C, R, D, E, F, M = Scope.CREATE, Scope.READ, Scope.DELETE, Scope.EXEC, Scope.FILES, Scope.MANAGE
ROUTES: dict[Scope, tuple[str, ...]] = {
    C: (f"POST {S}",),
    R: (f"GET {S}", f"GET {S}/events", f"GET {S}/ports", f"GET {S}/timeline"),
    D: (f"DELETE {S}",),
    M: (
        f"PATCH {S}",
        f"POST {S}/ports",
        *(f"POST {S}/{verb}" for verb in ("pause", "resume", "checkpoints", "checkpoints/restore", "handoff")),
        *(f"{method} {S}/checkpoints" for method in ("GET", "DELETE")),
        *(f"POST {S}/handoff/{verb}" for verb in ("accept", "complete", "cancel")),
        f"GET {S}/handoff",
    ),
    E: (
        *(f"POST {S}/{verb}" for verb in ("exec", "code", "processes/stdin", "processes/signal", "processes/wait")),
        *(f"GET {S}/{noun}" for noun in ("processes", "processes/output", "terminal", "preview", "preview/viewer")),
        *(f"POST {S}/preview/{verb}" for verb in ("start", "navigate", "resize")),
        *(f"POST {S}/opencode/{noun}" for noun in ("prompt", "tasks", "tasks/cancel")),
        *(f"GET {S}/opencode/{noun}" for noun in ("tasks", "tasks/events")),
    ),
    F: (
        *(f"GET {S}/fs/{verb}" for verb in ("read", "list", "stat", "download")),
        *(f"POST {S}/fs/{verb}" for verb in ("write", "mkdir", "move", "remove", "chmod", "url")),
        *(f"{method} {S}/artifacts" for method in ("GET", "POST", "DELETE")),
        *(f"GET {S}/artifacts/{noun}" for noun in ("url", "download")),
        f"PUT {S}/fs/upload",
        f"HEAD {S}/fs/download",
        f"POST {S}/documents/convert",
    ),
    Scope.WEBHOOKS: (
        *(f"{method} /v1/webhooks" for method in ("POST", "GET", "PATCH", "DELETE")),
        *(f"POST /v1/webhooks/{verb}" for verb in ("rotate", "test", "redeliver")),
        "GET /v1/webhooks/deliveries",
    ),
    Scope.USAGE: ("GET /v1/usage", "GET /v1/billing"),
}
OPEN = {f"GET /{path}" for path in ("healthz", "readyz", "metrics", "openapi.json")}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "docs/reference/openapi.json").read_text())
    return found


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def _references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (text for name, text in value.items() if name == "$ref")
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


def test_every_route_of_the_contract_is_there_with_its_scope_and_no_other(document: dict[str, Any]) -> None:
    promised = {route: scope.value for scope, routes in ROUTES.items() for route in routes}
    found = {route: operation.get("x-scope") for route, operation in _operations(document)}
    assert found == {**promised, **dict.fromkeys(OPEN)}


async def test_it_is_served_as_it_is_committed(stage: Stage, document: dict[str, Any]) -> None:
    async with stage.client(None) as client:
        assert (await client.get("/openapi.json")).json() == document == described()


def test_every_schema_is_one_and_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for name, schema in schemas.items():
        assert jsonschema_rs.meta.is_valid({**schema, "$schema": "https://json-schema.org/draft/2020-12/schema"}), name
    known = {f"#/components/schemas/{name}" for name in schemas}
    assert {*_references(document)} <= known


def test_every_operation_has_a_name_its_errors_and_their_headers(document: dict[str, Any]) -> None:
    operations = dict(_operations(document))
    names = [operation["operationId"] for operation in operations.values()]
    assert len({*names}) == len(names)
    for route, operation in operations.items():
        assert operation["summary"]
        answers = operation["responses"]
        assert all("X-Request-Id" in answer["headers"] for answer in answers.values()), route
        assert all(answer["description"] for answer in answers.values()), route
        if route not in OPEN:
            assert {"400", "401", "403", "413", "429", "500", "503"} <= answers.keys(), route
            assert all("Retry-After" in answers[status]["headers"] for status in ("429", "503")), route
            assert "WWW-Authenticate" in answers["401"]["headers"], route
            assert operation.get("security", document["security"])[0] == {"key": []}, route
        errors = [answer["content"] for status, answer in answers.items() if status >= "400" and route not in OPEN]
        error = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorShape"}}}
        assert all(content == error for content in errors), route


def test_what_names_a_sandbox_may_answer_that_there_is_none(document: dict[str, Any]) -> None:
    for route, operation in _operations(document):
        query = {parameter["name"] for parameter in operation.get("parameters", ())}
        if "id" in query:
            assert "404" in operation["responses"], route


def test_every_post_takes_an_idempotency_key_and_says_which_answers_are_secret(document: dict[str, Any]) -> None:
    about = {
        route: [parameter["description"] for parameter in operation["parameters"] if parameter["in"] == "header"]
        for route, operation in _operations(document)
        if route.startswith("POST ")
    }
    assert all(about.values())
    secret = {f"{operation.method} {operation.path}" for operation in OPERATIONS if operation.secret}
    posted = {f"POST {S}/fs/url", "POST /v1/webhooks", "POST /v1/webhooks/rotate"}
    posted |= {f"POST {S}/preview/{deed}" for deed in ("start", "navigate", "resize")}
    shown = (f"GET {S}", f"PATCH {S}", f"GET {S}/terminal", f"GET {S}/ports", f"GET {S}/artifacts/url")
    assert secret == {*shown, f"GET {S}/preview", f"GET {S}/preview/viewer", *posted}
    assert {route for route, said in about.items() if "not kept: the same request" in said[-1]} == posted


async def test_the_answers_of_a_real_sandbox_have_the_documents_fields_and_no_others(
    api: httpx.AsyncClient, box: str, document: dict[str, Any]
) -> None:
    schemas = document["components"]["schemas"]
    shown = (await api.get(S, params={"id": box})).json()
    assert shown.keys() == schemas["SandboxShape"]["properties"].keys()
    listed = (await api.get(S)).json()
    assert listed["items"][0].keys() == schemas["ListedShape"]["properties"].keys()
    ran = (await api.post(f"{S}/exec", json={"id": box, "command": "true"})).json()
    assert ran.keys() == schemas["ResultShape"]["properties"].keys()
    processes = (await api.get(f"{S}/processes", params={"id": box})).json()
    assert processes["items"][0].keys() == schemas["ProcessShape"]["properties"].keys()
