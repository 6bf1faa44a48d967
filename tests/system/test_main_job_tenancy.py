"""Nothing crosses between organisations, keys mean what they say, and bad input gets a sentence."""

import uuid
from collections.abc import Iterator

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.clients import Api, Sandbox, eventually
from tests.services import Service
from tests.terminals import Terminal

ABSENT = "a" * 32


@pytest.fixture(scope="module")
def owned(api: Api) -> Iterator[Sandbox]:
    made = api.ready(runtime="base", isolation="runc", name="private")
    yield made
    api.delete(made.id)


@pytest.fixture(scope="module")
def stranger(service: Service) -> Api:
    return service.api("stranger")


CALLS = [
    ("GET", "", None),
    ("DELETE", "", None),
    ("PATCH", "", {"name": "mine"}),
    ("POST", "/exec", {"command": "id"}),
    ("POST", "/code", {"code": "1"}),
    ("GET", "/processes", None),
    ("GET", "/terminal", None),
    ("GET", "/events", None),
    ("GET", "/fs/read", {"path": "/etc/hostname"}),
    ("GET", "/fs/list", {"path": "/"}),
    ("GET", "/fs/download", {"path": "/etc/hostname"}),
    ("GET", "/fs/stat", {"path": "/etc/hostname"}),
    ("PUT", "/fs/upload", {"path": "/workspace/x"}),
    ("POST", "/fs/write", {"path": "/workspace/x", "content": ""}),
    ("POST", "/fs/mkdir", {"path": "/workspace/x"}),
    ("POST", "/fs/remove", {"path": "/workspace/x"}),
    ("POST", "/fs/url", {"path": "/workspace/x", "operation": "upload"}),
]


@pytest.mark.parametrize(("method", "path", "more"), CALLS, ids=[f"{method} {path}" for method, path, _ in CALLS])
def test_a_strangers_sandbox_is_one_that_never_was(
    stranger: Api, owned: Sandbox, method: str, path: str, more: dict[str, str] | None
) -> None:
    def told(sandbox: str) -> tuple[int, object]:
        fields = {"id": sandbox, **(more or {})}
        how = {"json": fields} if method in ("POST", "PATCH") else {"params": fields}
        response = stranger.ask(method, path, **how)
        return response.status_code, response.json()

    assert told(owned.id) == told(ABSENT) == (404, {"error": "Sandbox session not found"})


def test_a_strangers_list_is_empty(stranger: Api, owned: Sandbox) -> None:
    assert stranger.list()["items"] == []


def test_a_strangers_key_cannot_reuse_an_idempotency_key(stranger: Api, api: Api) -> None:
    headers = {"Idempotency-Key": f"shared-{uuid.uuid4().hex}"}
    first = api.call("POST", "", json={"runtime": "base"}, headers=headers)
    second = stranger.call("POST", "", json={"runtime": "base"}, headers=headers)
    api.delete(first["id"])
    stranger.delete(second["id"])
    assert first["id"] != second["id"]


@pytest.mark.parametrize("header", [None, "Bearer nonsense", "Basic eDp5", f"Bearer br_live_{'x' * 32}", "Bearer"])
def test_without_a_valid_key_every_route_says_the_same(service: Service, owned: Sandbox, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    for method, path, _ in CALLS:
        response = httpx.request(method, f"{service.url}/v1/sandboxes{path}", headers=headers, params={"id": owned.id})
        assert (response.status_code, response.json()["error"]) == (401, "Invalid or missing API key"), path


def test_a_key_does_only_what_its_scopes_say(service: Service) -> None:
    reader = service.api("acceptance", "unlimited", "sandbox_sessions:read")
    assert reader.ask("GET", "").status_code == 200
    refused = reader.ask("POST", "", json={})
    assert (refused.status_code, refused.json()["error"]) == (403, "Insufficient permissions")
    assert refused.json()["code"] == "PERMISSION_DENIED"


def test_a_url_that_grants_more_than_the_key_is_null(service: Service, owned: Sandbox) -> None:
    reader = service.api("acceptance", "unlimited", "sandbox_sessions:read")
    assert reader.get(owned.id)["terminalUrl"] is None


def test_a_revoked_key_ends_within_a_second_and_its_urls_with_it(service: Service, owned: Sandbox) -> None:
    doomed = service.api("acceptance")
    url = doomed.call("GET", "/terminal", params={"id": owned.id})["terminalUrl"]
    service.revoke(doomed)
    eventually("401", lambda: doomed.ask("GET", "").status_code == 401, 2)
    with pytest.raises(InvalidStatus):
        Terminal(url)


WRONG = [
    ({"runtime": "node"}, "Invalid runtime. Must be one of: bun, python, base"),
    ({"runtime": 5}, "Invalid runtime. Must be one of: bun, python, base"),
    ({"size": "large"}, "Invalid size: 'large'. Must be one of: standard"),
    ({"maxDurationMs": 0}, "Invalid maxDurationMs"),
    ({"maxDurationMs": -5}, "Invalid maxDurationMs"),
    ({"maxDurationMs": "60"}, "Invalid maxDurationMs"),
    ({"region": "IAD"}, "Invalid region. Must be a 3-letter lowercase code"),
    ({"region": "iads"}, "Invalid region. Must be a 3-letter lowercase code"),
]


@pytest.mark.parametrize(("wish", "sentence"), WRONG, ids=[str(wish) for wish, _ in WRONG])
def test_a_wrong_wish_gets_the_documents_sentence(api: Api, wish: dict[str, object], sentence: str) -> None:
    response = api.ask("POST", "", json=wish)
    assert (response.status_code, response.json()["error"]) == (400, sentence)


@pytest.mark.parametrize(
    "wish",
    [
        {"runtim": "bun"},
        {"env": {"1X": "a"}},
        {"env": {"A": 1}},
        {"env": ["A"]},
        {"env": {"A": "x" * 200_000}},
        {"metadata": {"a": {}}},
        {"isolation": "docker"},
        {"network": {"allow": ["not-a-network"]}},
        {"network": {"allow": ["10.0.0.0/8", "::/0"]}},
        {"ephemeral": "yes"},
        {"capabilities": {"unknown": True}},
        {"name": "x" * 100_000},
    ],
    ids=str,
)
def test_other_bad_input_gets_a_sentence_that_names_the_field(api: Api, wish: dict[str, object]) -> None:
    response = api.ask("POST", "", json=wish)
    assert response.status_code == 400, response.text
    assert next(iter(wish)) in response.json()["error"]
    assert set(response.json()) <= {"error", "code", "detail"}


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"runtime": "base"', b"1e999", b"NaN"]
)
def test_a_body_that_is_no_object_is_a_400(api: Api, content: bytes) -> None:
    response = api.ask("POST", "", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 400, response.text
    assert set(response.json()) <= {"error", "code"}


def test_every_answer_carries_a_request_id_and_errors_have_one_shape(service: Service, api: Api) -> None:
    for method, path in (("GET", ""), ("GET", "/nothing-here"), ("PUT", ""), ("POST", "/exec"), ("TRACE", "")):
        response = api.ask(method, path)
        assert response.headers["x-request-id"]
        if response.status_code >= 400:
            assert isinstance(response.json()["error"], str)
            assert response.status_code < 500
    assert api.ask("PUT", "").status_code == 405
    assert httpx.get(f"{service.url}/nowhere").status_code in (401, 404)


def test_the_open_doors_answer_without_a_key(service: Service) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        assert httpx.get(f"{service.url}{path}").status_code == 200, path


def test_what_is_not_built_yet_says_501_and_a_plan_that_lacks_it_403(service: Service, api: Api) -> None:
    asked = {"capabilities": {"browser": {"mode": "paired-banata-browser"}}}
    assert api.ask("POST", "", json=asked).status_code == 501
    refused = service.api("poor", "free").ask("POST", "", json=asked)
    assert refused.status_code == 403
    assert {
        "error": "Paired browser is not available on your current plan. Upgrade to Pro or higher.",
        "code": "PLAN_FEATURE_UNAVAILABLE",
        "requiredPlan": "pro",
        "currentPlan": "free",
    }.items() <= refused.json().items()


def test_rates_are_limited_per_organisation_and_say_when_to_come_again(service: Service) -> None:
    service.stop("serve")
    service.start("serve", {"BOXKEEP_CONTROL__RATE_LIMITS": "true"})
    service.wait_ready()
    try:
        hasty, calm = service.api("hasty"), service.api("calm")
        answers = [hasty.ask("POST", "", json={"runtime": "nope"}) for _ in range(25)]
        limited = [answer for answer in answers if answer.status_code == 429]
        assert 3 <= len(limited) <= 6
        assert limited[0].json()["error"] == "Rate limit exceeded. Please try again later."
        assert int(limited[0].headers["retry-after"]) >= 1
        assert calm.ask("GET", "").status_code == 200
    finally:
        service.stop("serve")
        service.start("serve")
        service.wait_ready()
