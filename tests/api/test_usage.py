"""Usage, billing and the timeline by HTTP."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from boxkeep_server.model.scopes import Scope
from tests.api.stage import PUBLIC, Stage
from tests.guests import GuestProgram

PATH = "/v1/sandboxes"


async def test_usage_and_billing_are_shown_to_their_scope_alone(stage: Stage, api: httpx.AsyncClient, box: str) -> None:
    stage.clock.ahead_ms += 60_000
    usage = (await api.get("/v1/usage")).json()
    assert usage["runningMs"] >= 60_000
    assert usage["sandboxes"] == [{"id": box, "runningMs": usage["runningMs"]}]
    assert sum(day["runningMs"] for day in usage["days"]) == usage["runningMs"]
    assert (usage["sandboxesCreated"], usage["sandboxesRun"]) == (1, 1)
    billing = (await api.get("/v1/billing")).json()
    assert billing["usedMs"] >= usage["runningMs"]
    assert (billing["plan"]["name"], billing["remainingMs"], billing["limitReached"]) == ("unlimited", None, False)
    async with stage.client(await stage.key("acme", "unlimited", Scope.EXEC)) as client:
        assert (await client.get("/v1/usage")).status_code == 403
        assert (await client.get("/v1/billing")).status_code == 403
    async with stage.client(await stage.key("other")) as client:
        assert (await client.get("/v1/usage")).json()["sandboxes"] == []


async def test_usage_is_shown_in_pages(
    stage: Stage, api: httpx.AsyncClient, key: str, box: str, guest_program: GuestProgram
) -> None:
    others = [await stage.ready_sandbox(key, guest_program.address) for _ in range(2)]
    stage.clock.ahead_ms += 60_000
    query: dict[str, Any] = {"limit": 1}
    named = []
    while True:
        answer = (await api.get("/v1/usage", params=query)).json()
        named += [one["id"] for one in answer["sandboxes"]]
        assert (answer["sandboxesRun"], len(answer["sandboxes"])) == (3, 1)
        if answer["nextCursor"] is None:
            break
        stage.clock.ahead_ms += 1_000
        query["cursor"] = answer["nextCursor"]
    assert sorted(named) == sorted([box, *others])
    sums = (await api.get("/v1/usage", params={"limit": 0})).json()
    assert (sums["sandboxes"], sums["nextCursor"], sums["sandboxesRun"]) == ([], None, 3)
    odd = await api.get("/v1/usage", params={"cursor": "x"})
    assert (odd.status_code, odd.json()) == (400, {"error": "Invalid cursor"})


@pytest.mark.parametrize(
    "query", [{"since": "x"}, {"since": "-1"}, {"until": str(10**30)}, {"since": "9", "until": "1"}, {"limit": "1001"}]
)
async def test_an_odd_stretch_is_a_400(api: httpx.AsyncClient, query: dict[str, str]) -> None:
    assert (await api.get("/v1/usage", params=query)).status_code == 400


async def whole(api: httpx.AsyncClient, box: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None:
        page = (await api.get(f"{PATH}/timeline", params={"id": box, "after": after, "limit": 2})).json()
        found += page["items"]
        after = page["nextAfter"]
    return found


async def test_the_timeline_has_all_that_happened_in_order_and_who_did_it(
    stage: Stage, api: httpx.AsyncClient, key: str, box: str
) -> None:
    caller = await stage.keys.authenticate(key)
    await api.post(f"{PATH}/fs/write", json={"id": box, "path": "/tmp/secret-content", "content": "s3cret"})
    await api.post(f"{PATH}/fs/mkdir", json={"id": box, "path": "/tmp/dir"})
    await api.post(f"{PATH}/fs/move", json={"id": box, "from": "/tmp/secret-content", "to": "/tmp/dir/b"})
    await api.post(f"{PATH}/fs/chmod", json={"id": box, "path": "/tmp/dir/b", "mode": 0o600})
    await api.post(f"{PATH}/exec", json={"id": box, "command": "echo s3cret", "env": {"TOKEN": "s3cret"}})
    await api.post(f"{PATH}/fs/remove", json={"id": box, "path": "/tmp/dir", "recursive": True})
    refused = await api.post(f"{PATH}/fs/remove", json={"id": box, "path": "/tmp/dir"})
    assert refused.status_code == 404
    await api.post(f"{PATH}/pause", json={"id": box})
    found = await whole(api, box)
    assert [one["sequence"] for one in found] == list(range(1, len(found) + 1))
    told = [one["type"].removeprefix("sandbox.") for one in found]
    assert told == [
        *("created", "assigned", "ready", "file.written", "directory.made", "file.moved", "file.mode_changed"),
        *("command.started", "command.ended", "file.removed", "pausing"),
    ]
    actors = {one["type"]: one["actor"] for one in found}
    assert actors["sandbox.file.written"] == actors["sandbox.pausing"] == caller.key_id
    assert actors["sandbox.command.ended"] == "system"
    assert found[3]["data"]["size"] == 6
    assert found[-1]["data"] == {"status": "pausing", "reason": "user_request"}
    assert "s3cret" not in json.dumps(found)
    lines = await api.get(f"{PATH}/timeline", params={"id": box, "format": "jsonl"})
    assert lines.headers["content-type"].startswith("application/x-ndjson")
    assert [json.loads(line) for line in lines.text.splitlines()] == found


async def test_who_joins_and_leaves_a_terminal_is_in_the_timeline(
    stage: Stage, api: httpx.AsyncClient, served: str, key: str, box: str
) -> None:
    mine = await stage.keys.authenticate(key)
    link = (await api.get(f"{PATH}/terminal", params={"id": box})).json()
    url = link["terminalUrl"].replace(PUBLIC.removeprefix("http://"), served)
    other_key = await stage.key("acme", "unlimited")
    other = await stage.keys.authenticate(other_key)
    async with stage.client(other_key) as client:
        wish = {"id": box, "terminalId": link["terminalId"]}
        again = (await client.get(f"{PATH}/terminal", params=wish)).json()
    async with connect(url), connect(again["terminalUrl"].replace(PUBLIC.removeprefix("http://"), served)):
        pass
    kinds = ("sandbox.terminal.joined", "sandbox.terminal.left")
    visits: list[dict[str, Any]] = []
    async with asyncio.timeout(20):
        while len(visits) < 4:
            visits = [one for one in await whole(api, box) if one["type"] in kinds]
    assert [one["type"] for one in visits] == [kinds[0], kinds[0], kinds[1], kinds[1]]
    assert [one["actor"] for one in visits[:2]] == [mine.key_id, other.key_id]
    assert {one["actor"] for one in visits[2:]} == {mine.key_id, other.key_id}
    assert all(one["data"] == {"processId": link["terminalId"]} for one in visits)


async def test_the_timeline_of_another_is_not_there(stranger: httpx.AsyncClient, box: str) -> None:
    assert (await stranger.get(f"{PATH}/timeline", params={"id": box})).status_code == 404
