"""Artifacts of the running service."""

import hashlib

import httpx

from tests.clients import Api, fresh

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
