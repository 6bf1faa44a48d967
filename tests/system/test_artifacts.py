"""Artifacts of the running service."""

import hashlib

import httpx

from tests.clients import Api, eventually, fresh
from tests.services import Service

A = "/artifacts"


def test_what_was_published_outlives_its_sandbox(api: Api, isolation: str) -> None:
    with fresh(api, runtime="base", isolation=isolation) as box:
        box.run("mkdir -p /workspace/artifacts/sub && ln -s /etc /workspace/artifacts/etc")
        box.run("head -c 20000000 /dev/urandom > /workspace/large && echo hello > /workspace/artifacts/sub/hello.txt")
        digest = box.run("sha256sum /workspace/large").split()[0]
        made = api.call("POST", A, json={"id": box.id, "path": "/workspace/large", "key": "kept/large"})
        folder = api.call("POST", A, json={"id": box.id})
    assert (made["sha256"], made["size"]) == (digest, 20_000_000)
    assert [item["key"] for item in folder["items"]] == ["sub/hello.txt"]
    assert folder["skipped"] == ["etc"]
    assert api.get(box.id)["artifacts"]["count"] == 2
    url = api.call("GET", f"{A}/url", params={"id": box.id, "key": "kept/large"})["url"]
    with httpx.Client() as anyone:
        assert hashlib.sha256(anyone.get(url).content).hexdigest() == digest
    for key in ("kept/large", "sub/hello.txt"):
        assert api.call("DELETE", A, params={"id": box.id, "key": key}) == {"ok": True}
    assert api.get(box.id)["artifacts"] is None


def test_what_lies_in_the_folder_is_published_at_the_end(api: Api, isolation: str) -> None:
    box = api.ready(runtime="base", isolation=isolation)
    box.run("mkdir -p /workspace/artifacts/deep; cd /workspace/artifacts; head -c 5000000 /dev/urandom > deep/large")
    box.run("cd /workspace/artifacts; echo hello > hello.txt; mkfifo pipe; ln -s /etc/passwd link")
    digest = box.run("sha256sum /workspace/artifacts/deep/large").split()[0]
    api.delete(box.id)
    eventually("it to have ended", lambda: api.get(box.id)["status"] == "ended", 30)
    items = {item["key"]: item for item in api.call("GET", A, params={"id": box.id})["items"]}
    assert sorted(items) == ["deep/large", "hello.txt"]
    assert items["deep/large"]["sha256"] == digest
    timeline = api.call("GET", "/timeline", params={"id": box.id})["items"]
    (missed,) = [one["data"] for one in timeline if one["type"] == "sandbox.artifacts.missed"]
    assert (missed["published"], missed["missed"], sorted(missed["keys"])) == (2, 2, ["link", "pipe"])


def test_kills_while_it_ends_publish_everything_once(service: Service, api: Api) -> None:
    boxes = [api.ready(runtime="base", isolation="runc") for _ in range(3)]
    for box in boxes:
        box.run("mkdir -p /workspace/artifacts; cd /workspace/artifacts; head -c 9M /dev/urandom | tee 1 2 > 3")
    for box, killed in zip(boxes, (("serve",), ("node", "serve"), ("serve",)), strict=True):
        api.delete(box.id)
        service.restart(*killed)
    for box in boxes:
        eventually("it to have ended", lambda box=box: api.get(box.id)["status"] == "ended", 60)
        items = api.call("GET", A, params={"id": box.id})["items"]
        assert [item["key"] for item in items] == ["1", "2", "3"]
        timeline = api.call("GET", "/timeline", params={"id": box.id})["items"]
        assert [one["type"] for one in timeline].count("sandbox.artifacts.updated") == 3
        for item in items:
            url = api.call("GET", f"{A}/url", params={"id": box.id, "key": item["key"]})["url"]
            with httpx.Client() as anyone:
                assert hashlib.sha256(anyone.get(url).content).hexdigest() == item["sha256"]
    service.wait_clean()
