"""Sandboxes by HTTP: every row of the contract's errors, the fields, lists, tenancy, events."""

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from boxkeep_server.control.checkpoints import wanted_of
from boxkeep_server.control.secrets import Secrets
from boxkeep_server.guestwire import GuestPool
from boxkeep_server.model.checkpoints import CheckpointState
from boxkeep_server.model.ids import new_id
from boxkeep_server.model.rates import RATES, CallKind, Rate
from boxkeep_server.model.scopes import Scope
from boxkeep_server.store import checkpoints
from tests.api.stage import Stage, staged
from tests.guests import GuestProgram

PATH = "/v1/sandboxes"
PAIRED = {"browser": {"mode": "paired-banata-browser"}}

CREATE_REFUSED = [
    ({"runtime": "node"}, "Invalid runtime. Must be one of: bun, python, base"),
    ({"runtime": 5}, "Invalid runtime. Must be one of: bun, python, base"),
    ({"size": "large"}, "Invalid size: 'large'. Must be one of: standard"),
    ({"maxDurationMs": 0}, "Invalid maxDurationMs"),
    ({"maxDurationMs": -1}, "Invalid maxDurationMs"),
    ({"maxDurationMs": 1e300}, "Invalid maxDurationMs"),
    ({"maxDurationMs": 2**63}, "Invalid maxDurationMs"),
    ({"maxDurationMs": "60000"}, "Invalid maxDurationMs"),
    ({"maxDurationMs": True}, "Invalid maxDurationMs"),
    ({"region": "IAD"}, "Invalid region. Must be a 3-letter lowercase code"),
    ({"region": "iadx"}, "Invalid region. Must be a 3-letter lowercase code"),
    ({"runtme": "bun"}, "Unknown field 'runtme'. Did you mean 'runtime'?"),
    ({"capabilities": {"browser": {"mod": "none"}}}, "Unknown field 'capabilities.browser.mod'. Did you mean 'mode'?"),
    ({"env": {"1A": "x"}}, "Invalid env: '1A' is not a name. Names match [A-Za-z_][A-Za-z0-9_]*"),
    ({"env": {"A": 1}}, "Invalid env: must be a map of strings"),
    ({"env": {"A": "x" * 131_072}}, "Invalid env: must have at most 131072 bytes in all"),
    ({"env": {"A": "\0"}}, "Invalid env: must not contain NUL"),
    ({"metadata": {"a": "x" * 16_384}}, "Invalid metadata: must have at most 16384 bytes in all"),
    ({"ephemeral": "no"}, "Invalid ephemeral: must be true or false"),
    ({"count": 2}, "Invalid count: needs fromCheckpoint"),
    ({"memory": False}, "Invalid memory: needs fromCheckpoint"),
    ({"memory": "no", "fromCheckpoint": "x"}, "Invalid memory: must be true or false"),
    ({"isolation": "docker"}, "Invalid isolation: must be one of: runsc, runc"),
    (
        {"capabilities": {"browser": {"recording": True}}},
        "Invalid capabilities.browser.recording: needs mode local-chromium or paired-banata-browser",
    ),
    (
        {"capabilities": {"browser": {"mode": "local-chromium", "byoProxyUrl": "https://a:secret@proxy.test:443"}}},
        "Invalid capabilities.browser.byoProxyUrl: must be of http:// or socks5:// to have a user and a password",
    ),
    (
        {"network": {"allow": ["10.0.0.0/99"]}},
        "Invalid network.allow: '10.0.0.0/99' is not an IPv4 network such as 203.0.113.0/24",
    ),
]


@pytest.mark.parametrize(("body", "sentence"), CREATE_REFUSED, ids=[json.dumps(b)[:40] for b, _ in CREATE_REFUSED])
async def test_a_wrong_field_is_a_400_with_the_contracts_sentence(
    api: httpx.AsyncClient, body: dict[str, object], sentence: str
) -> None:
    response = await api.post(PATH, json=body)
    assert (response.status_code, response.json()) == (400, {"error": sentence})


BODIES_REFUSED = [
    (b"{", "not JSON"),
    (b"[]", "must be a JSON object"),
    (b'{"a": NaN}', "not JSON"),
    (b'{"name": "\xff"}', "not JSON"),
    (b'{"name": "\\ud800"}', "not JSON"),
    (b'{"runtime": "bun", "runtime": "base"}', "names 'runtime' twice"),
    (b'{"capabilities": ' + b'{"a":' * 40 + b"1" + b"}" * 41, "nests deeper than 32"),
    (b"[" * 5000, "not JSON"),
    (b'{"maxDurationMs": 1e400}', "not JSON"),
    (b'{"maxDurationMs": ' + b"9" * 5000 + b"}", ""),
]


@pytest.mark.parametrize(("body", "part"), BODIES_REFUSED, ids=range(len(BODIES_REFUSED)))
async def test_a_body_that_json_leaves_open_is_a_400(api: httpx.AsyncClient, body: bytes, part: str) -> None:
    response = await api.post(PATH, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert part in response.json()["error"]


async def test_a_body_of_another_type_or_too_large_is_refused(api: httpx.AsyncClient) -> None:
    response = await api.post(PATH, content=b"{}", headers={"Content-Type": "text/plain"})
    assert (response.status_code, response.json()) == (400, {"error": "Content-Type must be application/json"})
    response = await api.post(PATH, content=b'{"name": "' + b"x" * (1 << 20) + b'"}')
    assert response.status_code == 413


async def test_an_empty_body_makes_a_sandbox_with_defaults(api: httpx.AsyncClient) -> None:
    response = await api.post(PATH, json={})
    body = response.json()
    assert response.status_code == 200
    assert body == {"id": body["id"], "status": "queued", "runtime": "bun", "size": "standard", "capabilities": None}
    assert len(body["id"]) == 32
    assert len(response.headers["x-request-id"]) == 32


async def test_a_duration_over_the_plan_says_so(stage: Stage) -> None:
    async with stage.client(await stage.key("poor", "free")) as client:
        response = await client.post(PATH, json={"maxDurationMs": 300_001})
        assert response.status_code == 400
        assert response.json() == {
            "error": "Invalid maxDurationMs",
            "code": "PLAN_LIMIT_EXCEEDED",
            "limitMs": 300_000,
            "currentPlan": "free",
            "detail": "The free plan allows at most 300000 ms",
        }


async def test_a_browser_in_a_machine_of_its_own_is_of_the_pro_plan_and_above(
    stage: Stage, api: httpx.AsyncClient
) -> None:
    paired = {"capabilities": PAIRED}
    async with stage.client(await stage.key("poor", "free")) as client:
        response = await client.post(PATH, json=paired)
    assert response.status_code == 403
    assert response.json() == {
        "error": "Paired browser is not available on your current plan. Upgrade to Pro or higher.",
        "code": "PLAN_FEATURE_UNAVAILABLE",
        "requiredPlan": "pro",
        "currentPlan": "free",
    }
    assert (await api.post(PATH, json=paired)).status_code == 200


async def test_a_recording_is_of_the_pro_plan_and_above(stage: Stage) -> None:
    recorded = {"capabilities": {"browser": {"mode": "local-chromium", "recording": True}}}
    for plan, status in (("free", 403), ("builder", 403), ("pro", 200)):
        async with stage.client(await stage.key(plan, plan)) as client:
            response = await client.post(PATH, json=recorded)
        assert response.status_code == status
        if status == 403:
            assert response.json() == {
                "error": "Recording is not available on your current plan. Upgrade to Pro or higher.",
                "code": "PLAN_FEATURE_UNAVAILABLE",
                "requiredPlan": "pro",
                "currentPlan": plan,
            }
        else:
            assert response.json()["capabilities"] == recorded["capabilities"]


async def test_the_password_of_a_proxy_is_shown_to_nobody_and_kept_sealed_to_the_end(
    stage: Stage, api: httpx.AsyncClient, tmp_path: Path
) -> None:
    url = "http://lovelace:very-secret@proxy.test:3128"
    asked = {"capabilities": {"browser": {"mode": "local-chromium", "byoProxyUrl": url}}}
    made = await api.post(PATH, json=asked, headers={"Idempotency-Key": "one"})
    again = await api.post(PATH, json=asked, headers={"Idempotency-Key": "one"})
    box = made.json()["id"]
    shown = await api.get(PATH, params={"id": box})
    listed = await api.get(PATH)
    told = await api.get(f"{PATH}/timeline", params={"id": box})
    for answer in (made, again, shown, listed, told):
        assert answer.status_code == 200
        assert not any(word in answer.text for word in ("lovelace", "very-secret"))
    assert shown.json()["capabilities"]["browser"]["byoProxyUrl"] == "http://proxy.test:3128"
    secrets = Secrets(stage.database, stage.seal)
    assert await secrets.proxy_url(box) == url
    assert not any(b"very-secret" in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    await api.delete(PATH, params={"id": box})
    async with asyncio.timeout(20):
        while await secrets.proxy_url(box) is not None:
            await asyncio.sleep(0.02)


async def test_capabilities_that_are_off_are_accepted_and_echoed(api: httpx.AsyncClient) -> None:
    off = {
        "opencode": {"enabled": False, "defaultAgent": "build"},
        "browser": {"mode": "none", "recording": False},
        "documents": {"libreofficeHeadless": False},
        "storage": {"artifactPrefix": "my-project/"},
    }
    asked = {"capabilities": off, "lifecycle": {}}
    assert (await api.post(PATH, json=asked)).json()["capabilities"] == off


async def test_the_concurrency_limit_is_a_429(stage: Stage) -> None:
    async with stage.client(await stage.key("poor", "free")) as client:
        assert (await client.post(PATH, json={})).status_code == 200
        response = await client.post(PATH, json={})
    assert (response.status_code, response.json()) == (429, {"error": "Concurrent sandbox limit reached"})


async def test_no_key_or_a_wrong_one_is_a_401_before_everything(stage: Stage) -> None:
    for key in (None, "br_live_" + "x" * 32, "nonsense"):
        async with stage.client(key) as client:
            response = await client.post(PATH, content=b"{nonsense")
            assert (response.status_code, response.json()) == (401, {"error": "Invalid or missing API key"})


async def test_a_bad_body_comes_before_a_missing_scope(stage: Stage) -> None:
    async with stage.client(await stage.key("acme", "unlimited", Scope.READ)) as client:
        assert (await client.post(PATH, json={"runtime": "x"})).status_code == 400
        response = await client.post(PATH, json={})
        assert response.status_code == 403
        assert response.json() == {"error": "Insufficient permissions", "code": "PERMISSION_DENIED"}


async def test_the_rate_limit_comes_before_the_body_and_says_when(pool: GuestPool, tmp_path: Path) -> None:
    rates = {**RATES, CallKind.CREATE: Rate(1, 1)}
    async with staged(tmp_path, pool, rates=rates) as stage, stage.client(await stage.key("acme")) as client:
        assert (await client.post(PATH, json={})).status_code == 200
        response = await client.post(PATH, content=b"{nonsense")
    assert response.status_code == 429
    assert response.json() == {"error": "Rate limit exceeded. Please try again later."}
    assert int(response.headers["retry-after"]) > 0


async def test_a_ready_sandbox_shows_all_its_fields(api: httpx.AsyncClient, box: str) -> None:
    body = (await api.get(PATH, params={"id": box})).json()
    assert (body["status"], body["region"], body["isolation"], body["duration"]) == ("ready", "loc", "runc", None)
    assert body["terminalUrl"].startswith("ws://boxkeep.test/v1/sandboxes/terminal?")
    nothing = ("capabilities", "pairedBrowser", "opencode", "browserPreview", "humanHandoff", "artifacts")
    assert [body[name] for name in nothing] == [None] * 6
    assert body["expiresAt"] > body["createdAt"]


async def test_a_key_that_may_not_exec_gets_no_terminal_url(stage: Stage, box: str) -> None:
    async with stage.client(await stage.key("acme", "unlimited", Scope.READ)) as client:
        assert (await client.get(PATH, params={"id": box})).json()["terminalUrl"] is None


async def test_lists_are_paged_newest_first_and_filtered(api: httpx.AsyncClient) -> None:
    ids = [(await api.post(PATH, json={"metadata": {"n": str(n % 2)}})).json()["id"] for n in range(5)]
    first = (await api.get(PATH, params={"limit": 3})).json()
    second = (await api.get(PATH, params={"limit": 3, "cursor": first["nextCursor"]})).json()
    shown = first["items"] + second["items"]
    assert {item["id"] for item in shown} == set(ids)
    assert [item["createdAt"] for item in shown] == sorted((item["createdAt"] for item in shown), reverse=True)
    assert second["nextCursor"] is None
    found = (await api.get(PATH, params={"metadata.n": "1"})).json()["items"]
    assert {item["id"] for item in found} == {ids[1], ids[3]}
    assert (await api.get(PATH, params={"status": "ready"})).json()["items"] == []
    assert (await api.get(PATH, params={"limit": "0"})).status_code == 400
    assert (await api.get(PATH, params={"cursor": "bogus"})).status_code == 400


async def test_ending_takes_the_id_from_query_or_body_and_may_be_repeated(api: httpx.AsyncClient) -> None:
    sandbox = (await api.post(PATH, json={})).json()["id"]
    assert (await api.delete(PATH, params={"id": sandbox})).json() == {"ok": True}
    again = await api.request("DELETE", PATH, json={"id": sandbox})
    assert (again.status_code, again.json()) == (200, {"ok": True})
    other = await api.request("DELETE", PATH, params={"id": sandbox}, json={"id": new_id()})
    assert other.status_code == 400
    assert (await api.delete(PATH)).json() == {"error": "id is required"}


async def test_create_waits_until_ready_or_the_time_is_up(
    api: httpx.AsyncClient, stage: Stage, guest_program: GuestProgram
) -> None:
    late = await api.post(PATH, json={}, params={"wait": "ready", "timeoutMs": 10})
    assert late.json()["status"] == "queued"
    waiting = asyncio.create_task(api.post(PATH, json={"name": "w"}, params={"wait": "ready"}))
    async with asyncio.timeout(20):
        while len(found := (await api.get(PATH)).json()["items"]) < 2:
            await asyncio.sleep(0.01)
    await stage.make_ready(next(item["id"] for item in found if item["name"] == "w"), guest_program.address)
    assert (await waiting).json()["status"] == "ready"


async def test_forks_are_all_waited_for_within_one_time_limit(
    stage: Stage, api: httpx.AsyncClient, key: str, box: str
) -> None:
    original = await stage.sandboxes.state(box)
    assert original is not None
    wanted = wanted_of(original, new_id(), stage.clock(), original.created_by, name=None, memory=False)
    async with stage.database.writing() as connection:
        await checkpoints.add(
            connection, replace(wanted, state=CheckpointState.WHOLE, keeps="files", bytes=1, taken_at=1)
        )
    begun = time.monotonic()
    wish = {"fromCheckpoint": wanted.id, "count": 20}
    answer = await api.post(PATH, json=wish, params={"wait": "ready", "timeoutMs": 1000})
    assert [item["status"] for item in answer.json()["items"]] == ["queued"] * 20
    assert 1 <= time.monotonic() - begun < 10


async def test_changes_are_within_the_plan(api: httpx.AsyncClient, box: str) -> None:
    before = (await api.get(PATH, params={"id": box})).json()
    body = {"id": box, "name": "n", "metadata": {"a": "b"}, "maxDurationMs": 3_600_000}
    after = (await api.patch(PATH, json=body)).json()
    assert (after["name"], after["metadata"]) == ("n", {"a": "b"})
    assert after["expiresAt"] > before["expiresAt"]


async def test_one_create_under_an_idempotency_key(api: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "k1"}
    both = await asyncio.gather(*(api.post(PATH, json={"name": "x"}, headers=headers) for _ in range(5)))
    assert len({response.json()["id"] for response in both}) == 1
    clash = await api.post(PATH, json={"name": "y"}, headers=headers)
    assert clash.status_code == 409


async def test_events_come_in_order_and_go_on_after_one(api: httpx.AsyncClient, box: str, stage: Stage) -> None:
    await stage.fail(box, "machine_died")
    response = await api.get(f"{PATH}/events", params={"id": box})
    names = [line for line in response.text.splitlines() if line.startswith("event: ")]
    kinds = ["created", "assigned", "ready", "failed"]
    assert names == [f"event: sandbox.{kind}" for kind in kinds]
    rest = await api.get(f"{PATH}/events", params={"id": box}, headers={"Last-Event-ID": "3"})
    assert rest.text.startswith("id: 4\nevent: sandbox.failed\n")
    over = await api.get(f"{PATH}/events", params={"id": box}, headers={"Last-Event-ID": "4"})
    assert over.status_code == 204


async def test_unknown_paths_and_methods_have_the_same_shape(api: httpx.AsyncClient) -> None:
    response = await api.get("/nowhere")
    assert (response.status_code, response.json()) == (404, {"error": "There is nothing at /nowhere"})
    response = await api.put(PATH)
    assert (response.status_code, response.headers["allow"]) == (405, "POST, GET, DELETE, PATCH")


async def test_pausing_and_resuming_are_asked_for_and_answered_as_the_state_is(
    api: httpx.AsyncClient, stranger: httpx.AsyncClient, box: str
) -> None:
    assert (await stranger.post(f"{PATH}/pause", json={"id": box})).status_code == 404
    resumed = (await api.post(f"{PATH}/resume", json={"id": box})).json()
    assert (resumed["id"], resumed["status"]) == (box, "ready")
    for _ in range(2):
        paused = (await api.post(f"{PATH}/pause", json={"id": box})).json()
        assert (paused["id"], paused["status"]) == (box, "pausing")
    response = await api.post(f"{PATH}/resume", json={"id": box})
    assert (response.status_code, response.json()) == (409, {"error": "Sandbox is being paused"})
    response = await api.post("/v1/sandboxes/exec", json={"id": box, "command": "true"})
    assert (response.status_code, response.json()) == (409, {"error": "Sandbox is not ready"})
    seen = (await api.get(PATH, params={"id": box})).json()
    assert (seen["status"], seen["pauseDurability"], seen["reason"]) == ("pausing", None, "user_request")


@pytest.mark.parametrize(
    "lifecycle",
    [{"onExpiry": "sleep"}, {"idlePauseMs": 999}, {"idlePauseMs": True}, {"autoResume": 1}, {"onexpiry": 1}],
)
async def test_a_lifecycle_is_checked_and_shown(api: httpx.AsyncClient, lifecycle: dict[str, object]) -> None:
    assert (await api.post(PATH, json={"lifecycle": lifecycle})).status_code == 400
    wish = {"onExpiry": "pause", "idlePauseMs": 60_000, "autoResume": True}
    made = (await api.post(PATH, json={"lifecycle": wish})).json()
    assert (await api.get(PATH, params={"id": made["id"]})).json()["lifecycle"] == wish


async def test_the_service_says_how_it_is(stage: Stage) -> None:
    async with stage.client(None) as client:
        assert (await client.get("/healthz")).json() == {"ok": True}
        assert (await client.get("/readyz")).json() == {"ok": True}
        assert "boxkeep_http_requests_total" in (await client.get("/metrics")).text
        assert (await client.get("/openapi.json")).json()["openapi"] == "3.1.0"
