"""Webhooks by the API: what is answered, what is refused, and what another organisation sees of it."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from boxkeep_server.model.ids import new_id
from boxkeep_server.store.schema import idempotency
from tests.api.stage import Stage

PATH = "/v1/webhooks"
URL = "https://example.com/hooks?x=y"
DOCUMENT = Path(__file__).resolve().parent.parent.parent / "docs/reference/openapi.json"


async def _made(api: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await api.post(PATH, json={"url": URL, **fields})
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def test_the_secret_is_shown_once(api: httpx.AsyncClient) -> None:
    made = await _made(api, description="ours", eventTypes=["sandbox.ready"])
    assert made.pop("signingSecret").startswith("whsec_")
    assert made["eventTypes"] == ["sandbox.ready"]
    assert (made["url"], made["description"], made["enabled"], made["disabledReason"]) == (URL, "ours", True, None)
    assert (await api.get(PATH, params={"id": made["id"]})).json() == made
    assert (await api.get(PATH)).json() == {"items": [made], "nextCursor": None}


@pytest.mark.parametrize("types", [None, ["*"], ["sandbox.ready", "*"]])
async def test_all_types_are_a_star(api: httpx.AsyncClient, types: list[str] | None) -> None:
    assert (await _made(api, eventTypes=types))["eventTypes"] == ["*"]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "url is required"),
    ({"url": "ftp://example.com"}, "Invalid url"),
    ({"url": "https://user@example.com"}, "Invalid url: must have neither a user nor a fragment"),
    ({"url": "https://example.com:99999"}, "Invalid url: must be a URL"),
    ({"url": "https://10.0.0.1/"}, "Invalid url: webhooks may not reach this address"),
    ({"url": "http://169.254.169.254/latest/meta-data"}, "Invalid url: webhooks may not reach this address"),
    ({"url": "https://[::ffff:10.0.0.1]/"}, "Invalid url: webhooks may not reach this address"),
    ({"url": URL, "eventTypes": ["sandbox.ready", "sandbox.rady"]}, "Invalid eventTypes: there is no 'sandbox.rady'"),
    ({"url": URL, "eventTypes": ["sandbox.command.started"]}, "Invalid eventTypes: there is no 'sandbox.command"),
    ({"url": URL, "eventTypes": []}, "Invalid eventTypes: must not be empty"),
    ({"url": URL, "description": "x" * 1001}, "Invalid description: must have at most 1000"),
    ({"url": "https://example.com/" + "x" * 2048}, "Invalid url: must have at most 2048"),
    ({"url": URL, "events": []}, "Unknown field 'events'"),
]


@pytest.mark.parametrize(("body", "said"), WRONG, ids=range(len(WRONG)))
async def test_a_wrong_webhook_is_a_400_that_names_what_is_wrong(
    api: httpx.AsyncClient, body: dict[str, Any], said: str
) -> None:
    answer = await api.post(PATH, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(said)
    if "url" in body and "eventTypes" not in body and body["url"] != URL:
        made = await _made(api)
        assert (await api.patch(PATH, json={"id": made["id"], **body})).json() == answer.json()


async def test_changes_are_those_that_were_asked_for(api: httpx.AsyncClient, stage: Stage) -> None:
    made = await _made(api, description="ours", eventTypes=["sandbox.ready"])
    del made["signingSecret"]
    assert (await api.patch(PATH, json={"id": made["id"]})).json() == made
    off = (await api.patch(PATH, json={"id": made["id"], "enabled": False})).json()
    assert off["disabledAt"] > 0
    assert off == {**made, "enabled": False, "disabledReason": "user_request", "disabledAt": off["disabledAt"]}
    stage.clock.ahead_ms += 1000
    assert (await api.patch(PATH, json={"id": made["id"], "enabled": False})).json() == off
    new = {"url": "https://example.org/", "eventTypes": None, "description": None, "enabled": True}
    on = (await api.patch(PATH, json={"id": made["id"], **new})).json()
    assert on == {**made, **new, "eventTypes": ["*"]}


async def test_deliveries_are_paged_newest_first_and_shown_with_what_was_sent(
    api: httpx.AsyncClient, stage: Stage
) -> None:
    made = await _made(api, eventTypes=["sandbox.created"])
    sandbox = (await api.post("/v1/sandboxes", json={})).json()["id"]
    tests = []
    for _ in range(4):
        stage.clock.ahead_ms += 1000
        tests.append((await api.post(f"{PATH}/test", json={"id": made["id"]})).json())
    seen: list[dict[str, Any]] = []
    query = {"id": made["id"], "limit": 2}
    while True:
        page = (await api.get(f"{PATH}/deliveries", params=query)).json()
        seen += page["items"]
        if page["nextCursor"] is None:
            break
        query["cursor"] = page["nextCursor"]
    assert seen[:-1] == tests[::-1]
    first = seen[-1]
    assert (first["type"], first["sandboxId"], first["sequence"]) == ("sandbox.created", sandbox, 1)
    assert first["payload"]["data"] == {"status": "queued", "id": sandbox}
    assert (first["state"], first["attempts"], first["webhookId"]) == ("pending", 0, made["id"])
    assert first["payload"]["id"] == first["messageId"]
    assert (await api.get(f"{PATH}/deliveries", params={"id": made["id"], "cursor": "?"})).status_code == 400
    again = (await api.post(f"{PATH}/redeliver", json={"deliveryId": first["id"]})).json()
    assert again == {**first, "nextAttemptAt": again["nextAttemptAt"]}
    assert again["nextAttemptAt"] > first["nextAttemptAt"]


async def test_answers_have_the_documents_fields_and_no_others(api: httpx.AsyncClient) -> None:
    schemas = json.loads(DOCUMENT.read_text(encoding="utf-8"))["components"]["schemas"]
    made = await _made(api)
    assert made.keys() == schemas["NewWebhookShape"]["properties"].keys()
    rotated = (await api.post(f"{PATH}/rotate", json={"id": made["id"]})).json()
    assert rotated == {**made, "signingSecret": rotated["signingSecret"]}
    assert rotated["signingSecret"] != made["signingSecret"]
    owed = (await api.post(f"{PATH}/test", json={"id": made["id"]})).json()
    assert owed.keys() == schemas["DeliveryShape"]["properties"].keys()


async def test_a_disabled_webhook_is_sent_nothing_and_says_so(api: httpx.AsyncClient) -> None:
    made = await _made(api)
    owed = (await api.post(f"{PATH}/test", json={"id": made["id"]})).json()
    await api.patch(PATH, json={"id": made["id"], "enabled": False})
    for path, body in (("/test", {"id": made["id"]}), ("/redeliver", {"deliveryId": owed["id"]})):
        refused = await api.post(PATH + path, json=body)
        assert (refused.status_code, refused.json()) == (409, {"error": "Webhook is disabled"})
    await api.post("/v1/sandboxes", json={})
    assert (await api.get(f"{PATH}/deliveries", params={"id": made["id"]})).json()["items"] == [owed]


async def test_a_deleted_webhook_is_gone_with_its_deliveries(api: httpx.AsyncClient) -> None:
    made = await _made(api)
    owed = (await api.post(f"{PATH}/test", json={"id": made["id"]})).json()
    assert (await api.delete(PATH, params={"id": made["id"]})).json() == {"ok": True}
    assert (await api.delete(PATH, params={"id": made["id"]})).status_code == 404
    assert (await api.get(PATH)).json()["items"] == []
    assert (await api.post(f"{PATH}/redeliver", json={"deliveryId": owed["id"]})).status_code == 404


async def test_no_more_than_twenty(api: httpx.AsyncClient, stranger: httpx.AsyncClient) -> None:
    for _ in range(20):
        await _made(api)
    refused = await api.post(PATH, json={"url": URL})
    assert (refused.status_code, refused.json()) == (429, {"error": "An organisation may have 20 webhooks"})
    await _made(stranger)


async def test_the_same_key_makes_one_webhook_whose_secret_is_kept_nowhere(
    api: httpx.AsyncClient, stage: Stage
) -> None:
    headers = {"Idempotency-Key": "once"}
    first = await api.post(PATH, json={"url": URL}, headers=headers)
    again = await api.post(PATH, json={"url": URL}, headers=headers)
    assert first.json() == again.json()
    assert len((await api.get(PATH)).json()["items"]) == 1
    async with stage.database.reading() as connection:
        kept = (await connection.execute(sa.select(idempotency.c.body))).scalars().all()
    assert kept == [None]


async def test_another_organisations_webhook_is_one_that_never_was(
    api: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    made = await _made(api)
    owed = (await api.post(f"{PATH}/test", json={"id": made["id"]})).json()
    for theirs, delivery in ((made["id"], owed["id"]), (new_id(), new_id()), ("x", "x")):
        asked: list[tuple[str, str, dict[str, Any]]] = [
            ("GET", "", {"params": {"id": theirs}}),
            ("PATCH", "", {"json": {"id": theirs, "enabled": False}}),
            ("DELETE", "", {"params": {"id": theirs}}),
            ("POST", "/rotate", {"json": {"id": theirs}}),
            ("POST", "/test", {"json": {"id": theirs}}),
            ("GET", "/deliveries", {"params": {"id": theirs}}),
            ("POST", "/redeliver", {"json": {"deliveryId": delivery}}),
        ]
        for method, path, fields in asked:
            answer = await stranger.request(method, PATH + path, **fields)
            said = "Delivery not found" if path == "/redeliver" else "Webhook not found"
            assert (answer.status_code, answer.json()) == (404, {"error": said}), (method, path)
    assert (await stranger.get(PATH)).json()["items"] == []
    del made["signingSecret"]
    assert (await api.get(PATH, params={"id": made["id"]})).json() == made
