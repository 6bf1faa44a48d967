"""Snapshots in a bucket, by the running service: they outlive all that the node had."""

import hashlib
import shutil
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from boxkeep_server.node.images import archive_of, current
from tests.buckets import Bucket, bucket
from tests.clients import Api, Sandbox, eventually
from tests.ingredients import images
from tests.services import Service, running_service

SECRET = "a-word-that-nobody-may-read"
COUNTER = "i=0; while :; do i=$((i+1)); echo $i > /tmp/new; mv /tmp/new /workspace/count; sleep 0.05; done"


@pytest.fixture(scope="module")
def kept() -> Iterator[Bucket]:
    """The bucket."""
    with bucket("boxes") as one:
        yield one


@pytest.fixture(scope="module")
def apart(kept: Bucket, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that keeps its blobs in the bucket, and has one image."""
    place = tmp_path_factory.mktemp("images")
    digest = current(images())["base"]
    shutil.copyfile(archive_of(images(), digest), archive_of(place, digest))
    shutil.copyfile(images() / "base.json", place / "base.json")
    settings = {"BOXKEEP_NODE__IMAGES": str(place)}
    with running_service({**kept.settings, **settings}, beside="s") as running:
        yield running


def stored(api: Api, box: Sandbox) -> dict[str, Any]:
    """A paused sandbox once it is in the store."""

    def look() -> dict[str, Any] | None:
        seen = api.get(box.id)
        assert seen["status"] == "paused", seen
        return seen if seen["pauseDurability"] == "store" else None

    return eventually("the pause to be in the store", look, 60)


def checkpoint(box: Sandbox, *, memory: bool) -> dict[str, Any]:
    """A checkpoint once it is in the store."""
    taken = box.post("/checkpoints", memory=memory)
    assert taken["durability"] == "node"

    def look() -> dict[str, Any] | None:
        (seen,) = box.api.call("GET", "/checkpoints", params={"id": box.id})["items"]
        return dict(seen) if seen["durability"] == "store" else None

    return eventually("the checkpoint to be in the store", look, 60)


def copied(kept: Bucket) -> list[str]:
    """The keys of all copies in the bucket."""
    return [key for key in kept.all_keys() if "/snapshots/" in key]


def counted(box: Sandbox) -> int:
    return int(box.run("cat /workspace/count"))


def test_all_goes_on_when_the_node_has_lost_everything(apart: Service, kept: Bucket) -> None:
    api = apart.api("keepers")
    remembers = api.ready(runtime="base", isolation="runsc", ephemeral=False)
    remembers.run(f"echo {SECRET} > /workspace/own; touch /etc/mine; rm /etc/debian_version")
    remembers.background(COUNTER)
    eventually("it to count", lambda: remembers.exec("test -s /workspace/count")["exitCode"] == 0, 20)
    taken = checkpoint(remembers, memory=True)
    assert taken["keeps"] == "memory"
    before = counted(remembers)
    files = api.ready(runtime="base", isolation="runc")
    files.run(f"mkdir -p /workspace/deep/er; echo {SECRET} > /workspace/deep/er/own; ln -s er /workspace/deep/link")
    lost = api.ready(runtime="base", isolation="runc")
    for box in (remembers, files, lost):
        assert box.pause()["status"] == "paused"
        stored(api, box)
    snapshots = copied(kept)
    assert len(snapshots) == 4
    assert not [key for key in snapshots if SECRET.encode() in kept.read(key)]
    (damaged,) = [key for key in snapshots if lost.id in key]
    whole = kept.read(damaged)
    kept.write(damaged, whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])

    apart.lose_the_node()

    assert remembers.resume()["pauseKeeps"] == "memory"
    assert counted(remembers) >= before
    eventually("it to count on", lambda: counted(remembers) > before + 5, 20)
    assert remembers.run("cat /workspace/own; ls /etc/mine /etc/debian_version; true").startswith(
        f"{SECRET}\n/etc/mine"
    )
    files.resume()
    assert files.run("cat /workspace/deep/link/own") == f"{SECRET}\n"
    assert (lost.resume()["status"], api.get(lost.id)["reason"]) == ("paused", "snapshot_unfit")
    kept.write(damaged, whole)
    assert lost.resume()["status"] == "ready"
    forks = api.call("POST", "", json={"fromCheckpoint": taken["id"], "count": 3})["items"]
    for fork in (Sandbox(api, api.wait_status(one["id"], "ready", "active")["id"]) for one in forks):
        eventually("the fork to count", lambda fork=fork: counted(fork) > 0, 20)
        api.delete(fork.id)
    for box in (remembers, files, lost):
        api.delete(box.id)
    api.call("DELETE", "/checkpoints", params={"checkpointId": taken["id"]})
    eventually("the bucket to be tidy", lambda: not copied(kept), 60, 0.5)


def test_kills_while_it_is_copied_lose_and_leave_nothing(apart: Service, kept: Bucket) -> None:
    api = apart.api("killers")
    boxes = [api.ready(runtime="base", isolation="runc", ephemeral=False) for _ in range(3)]
    for number, box in enumerate(boxes):
        box.run(
            f"head -c 60000000 /dev/urandom > /workspace/large; sha256sum /workspace/large > /workspace/sum-{number}"
        )
    for box, killed in zip(boxes, (("serve",), ("node",), ("node", "serve")), strict=True):
        assert box.pause()["status"] == "paused"
        apart.restart(*killed)
    for box in boxes:
        stored(api, box)
    apart.lose_the_node()
    for number, (box, killed) in enumerate(zip(boxes, (("serve",), ("node",), ("node", "serve")), strict=True)):
        api.call("POST", "/resume", json={"id": box.id})
        apart.restart(*killed)
        api.wait_status(box.id, "ready", "active")
        assert box.run(f"cd /workspace; sha256sum -c sum-{number}").endswith("OK\n")
        api.delete(box.id)
    eventually("the bucket to be tidy", lambda: not copied(kept), 60, 0.5)
    apart.wait_clean()


def test_artifacts_are_in_the_bucket_and_a_bucket_that_is_away_is_told(apart: Service, kept: Bucket) -> None:
    api = apart.api("publishers")
    box = api.ready(runtime="base", isolation="runc")
    box.run("mkdir -p /workspace/artifacts; head -c 20000000 /dev/urandom > /workspace/artifacts/large")
    digest = box.run("sha256sum /workspace/artifacts/large").split()[0]
    api.delete(box.id)
    eventually("it to have ended", lambda: api.get(box.id)["status"] == "ended", 30)
    query = {"id": box.id, "key": "large"}
    url = api.call("GET", "/artifacts/url", params=query)["url"]
    with httpx.Client() as anyone:
        assert hashlib.sha256(anyone.get(url).content).hexdigest() == digest
        part = anyone.get(url, headers={"Range": "bytes=8388600-8388615"})
        (key,) = [key for key in kept.all_keys() if box.id in key]
        whole = kept.read(key)
        assert (part.status_code, part.content) == (206, whole[8388600:8388616])
        kept.write(key, whole[:5_000_000] + bytes([whole[5_000_000] ^ 1]) + whole[5_000_001:])
        with pytest.raises(httpx.RemoteProtocolError):
            anyone.get(url)
        kept.write(key, whole)
        with kept.away():
            assert anyone.get(url).status_code in (503, 504)
            other = api.ready(runtime="base", isolation="runc")
            other.run("mkdir -p /workspace/artifacts; echo x > /workspace/artifacts/x")
            refused = api.ask("POST", "/artifacts", json={"id": other.id})
            assert refused.status_code in (503, 504), refused.text
            api.delete(other.id)
            eventually("it to have ended", lambda: api.get(other.id)["status"] == "ended", 60)
            timeline = api.call("GET", "/timeline", params={"id": other.id})["items"]
            (missed,) = [one["data"] for one in timeline if one["type"] == "sandbox.artifacts.missed"]
            assert missed["keys"] == ["x"]
        assert hashlib.sha256(anyone.get(url).content).hexdigest() == digest
    api.call("DELETE", "/artifacts", params=query)
    assert not [key for key in kept.all_keys() if box.id in key]
