"""The life of a sandbox by HTTP: create, poll, list, change, expire, delete, and the limits of plans under races."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.clients import Api, Sandbox, eventually, fresh, server_sent
from tests.leftovers import on_host
from tests.services import Service


def test_an_empty_wish_makes_a_bun_sandbox_that_answers_at_once_as_queued(api: Api) -> None:
    created = api.create()
    try:
        assert {name: created[name] for name in ("status", "runtime", "size", "capabilities")} == {
            "status": "queued",
            "runtime": "bun",
            "size": "standard",
            "capabilities": None,
        }
        assert len(created["id"]) == 32
        assert created["id"].isalnum()
        assert created["id"].islower() or created["id"].isdigit()
        api.wait_status(created["id"], "ready")
    finally:
        api.delete(created["id"])


def test_create_can_wait_until_ready(api: Api, isolation: str) -> None:
    answer = api.call(
        "POST", "", params={"wait": "ready", "timeoutMs": 60_000}, json={"runtime": "base", "isolation": isolation}
    )
    assert answer["status"] == "ready", answer
    assert Sandbox(api, answer["id"]).run("echo hello") == "hello\n"
    assert api.delete(answer["id"]) == {"ok": True}


def test_a_deleted_sandbox_ends_takes_no_calls_and_can_be_deleted_again(api: Api) -> None:
    box = api.ready(runtime="base")
    sleeper = box.background("sleep 600")
    assert api.delete(box.id) == {"ok": True}
    ended = eventually("to end", lambda: seen if (seen := api.get(box.id))["status"] == "ended" else None, 20)
    assert ended["reason"] == "user_request"
    assert ended["duration"] > 0
    assert ended["endedAt"] >= ended["startedAt"]
    assert ended["expiresAt"] is None
    refused = api.ask("POST", "/exec", json={"id": box.id, "command": "true"})
    assert (refused.status_code, refused.json()["error"]) == (409, "Sandbox is not ready")
    assert api.delete(box.id) == {"ok": True}
    assert box.process(sleeper)["outcome"] == "sandbox_ended"


def test_a_sandbox_can_be_deleted_in_the_moment_of_its_creation(api: Api) -> None:
    made = [api.create(runtime="base")["id"] for _ in range(3)]
    for sandbox in made:
        assert api.call("DELETE", "", json={"id": sandbox}) == {"ok": True}
    eventually("all to end", lambda: all(api.get(sandbox)["status"] == "ended" for sandbox in made), 30)


def test_a_command_before_ready_is_a_409_with_the_documents_sentence(api: Api) -> None:
    created = api.create(runtime="base")
    response = api.ask("POST", "/exec", json={"id": created["id"], "command": "true"})
    assert response.status_code == 200 or response.json()["error"] == "Sandbox is not ready", response.text
    api.delete(created["id"])


def test_the_time_that_runs_out_ends_the_sandbox_and_says_so(api: Api, isolation: str) -> None:
    box = api.ready(runtime="base", isolation=isolation, maxDurationMs=4000)
    command = box.background("sleep 600")
    ended = eventually("to end", lambda: seen if (seen := api.get(box.id))["status"] == "ended" else None, 30)
    assert ended["reason"] == "max_duration"
    assert 3000 <= ended["duration"] <= 15_000
    assert box.process(command)["outcome"] == "sandbox_ended"


def test_the_end_time_can_be_moved(api: Api) -> None:
    with fresh(api, runtime="base", maxDurationMs=60_000) as box:
        before = api.get(box.id)["expiresAt"]
        api.call("PATCH", "", json={"id": box.id, "maxDurationMs": 600_000, "name": "longer", "metadata": {"a": "b"}})
        after = api.get(box.id)
        assert after["expiresAt"] > before + 400_000
        assert (after["name"], after["metadata"]) == ("longer", {"a": "b"})


def test_the_node_ends_a_sandbox_in_time_though_the_control_plane_is_dead(service: Service, api: Api) -> None:
    box = api.ready(runtime="base", isolation="runc", maxDurationMs=5000)
    mark = f"sleep 9{box.id}"
    box.background(f"exec -a '{mark}' sleep 600")
    assert eventually("the command to be seen on the host", lambda: on_host(mark) or None, 20)
    service.kill("serve")
    eventually("the node to end it alone", lambda: not on_host(mark), 30)
    service.start("serve")
    service.wait_ready()
    ended = eventually("to end", lambda: seen if (seen := api.get(box.id))["status"] == "ended" else None, 30)
    assert ended["reason"] == "max_duration"


def test_a_hundred_creates_on_a_plan_of_ten_make_exactly_ten(service: Service) -> None:
    api = service.api("crowd", "pro")

    def one(_: int) -> tuple[int, str]:
        response = api.ask("POST", "", json={"runtime": "base", "isolation": "runc"})
        body = response.json()
        return response.status_code, body["id"] if response.status_code == 200 else body["error"]

    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(one, range(100)))
    made = [said for status, said in answers if status == 200]
    try:
        assert len(made) == len(set(made)) == 10
        assert [answer for answer in answers if answer[0] != 200] == [(429, "Concurrent sandbox limit reached")] * 90
        for sandbox in made:
            api.wait_status(sandbox, "ready")
        assert api.ask("POST", "", json={}).status_code == 429
    finally:
        for sandbox in made:
            api.delete(sandbox)
    freed = api.create(runtime="base")
    api.delete(freed["id"])


def test_the_list_is_newest_first_and_its_pages_meet_without_a_gap(service: Service) -> None:
    api = service.api("lister")
    made = [api.create(runtime="base", name=f"n{number}", metadata={"n": str(number % 2)})["id"] for number in range(5)]
    try:
        seen: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            page = api.list(limit=2, **cursor)
            seen += [item["id"] for item in page["items"]]
            if page["nextCursor"] is None:
                break
            cursor = {"cursor": page["nextCursor"]}
        assert seen == made[::-1]
        odd = api.list(**{"metadata.n": "1"})["items"]
        assert [item["id"] for item in odd] == [made[3], made[1]]
        fields = {"id", "status", "runtime", "size", "region", "createdAt", "startedAt"}
        assert fields <= set(odd[0])
    finally:
        for sandbox in made:
            api.delete(sandbox)
    eventually("all to end", lambda: len(api.list(status="ended")["items"]) == 5, 40)


def test_the_same_idempotency_key_makes_one_sandbox(service: Service) -> None:
    api = service.api("careful")
    headers = {"Idempotency-Key": "once-and-only-once"}

    def one(_: int) -> str:
        answer = api.call("POST", "", json={"runtime": "base"}, headers=headers)
        return str(answer["id"])

    with ThreadPoolExecutor(10) as pool:
        made = set(pool.map(one, range(10)))
    try:
        assert len(made) == 1
        assert len(api.list()["items"]) == 1
        other = api.ask("POST", "", json={"runtime": "bun"}, headers=headers)
        assert other.status_code == 409, other.text
    finally:
        for sandbox in made:
            api.delete(sandbox)


def test_the_same_idempotency_key_runs_a_command_once(api: Api) -> None:
    with fresh(api, runtime="base") as box:
        body = {"id": box.id, "command": "echo x >> /workspace/log; wc -l < /workspace/log"}
        answers = [api.call("POST", "/exec", json=body, headers={"Idempotency-Key": "run"}) for _ in range(3)]
        assert {answer["stdout"] for answer in answers} == {"1\n"}
        assert box.run("cat log") == "x\n"


def test_events_tell_the_life_of_a_sandbox_and_begin_again_after_the_last_one_seen(api: Api) -> None:
    box = api.ready(runtime="base")
    api.delete(box.id)
    eventually("to end", lambda: api.get(box.id)["status"] == "ended", 20)
    with api.http.stream("GET", "/v1/sandboxes/events", params={"id": box.id}, timeout=20) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        told = []
        for _, data in server_sent(response):
            told.append(str(data))
            if "ended" in told[-1]:
                break
    assert any("ready" in line for line in told)


@pytest.mark.parametrize("plan", ["free"])
def test_the_free_plan_allows_one_sandbox_for_five_minutes(service: Service, plan: str) -> None:
    api = service.api("small", plan)
    created = api.create(runtime="base")
    try:
        assert api.ask("POST", "", json={}).json()["error"] == "Concurrent sandbox limit reached"
        over = api.ask("POST", "", json={"maxDurationMs": 300_001})
        assert over.status_code == 400
        assert {
            "error": "Invalid maxDurationMs",
            "code": "PLAN_LIMIT_EXCEEDED",
            "limitMs": 300_000,
            "currentPlan": "free",
        }.items() <= over.json().items()
        ready = api.wait_status(created["id"], "ready")
        assert ready["expiresAt"] - ready["startedAt"] <= 301_000
    finally:
        api.delete(created["id"])


def test_the_figures_count_what_belongs_to_nobody(service: Service, api: Api) -> None:
    def counted() -> dict[str, float]:
        lines = httpx.get(f"{service.url}/metrics").text.splitlines()
        found = (line.partition("} ") for line in lines if line.startswith("boxkeep_leaks{"))
        return {name.partition('"')[2].strip('"'): float(value) for name, _, value in found}

    seen = eventually("the count", counted, 60)
    assert {"processes", "mounts", "netns", "cgroups", "disks", "snapshots"} <= seen.keys()
    eventually("nothing to be counted", lambda: not any(counted().values()), 90, 1.0)
