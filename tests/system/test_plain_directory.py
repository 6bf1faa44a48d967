"""A running service whose disks lie in a plain directory: everything that a pool does, but for the disk's limit."""

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.clients import Api, Refused, Sandbox, eventually
from tests.ingredients import images
from tests.layered import base_alone
from tests.services import Service, running_service

COUNTER = "i=0; while :; do i=$((i+1)); echo $i > /tmp/new; mv /tmp/new /workspace/count; sleep 0.05; done"
SETTINGS = {"BOXKEEP_NODE__DISKS": "directory", "BOXKEEP_BLOBS__SNAPSHOTS": "always"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    place = base_alone(images(), tmp_path_factory.mktemp("images"))
    with running_service({**SETTINGS, "BOXKEEP_NODE__IMAGES": str(place)}, beside="v") as running:
        yield running


@pytest.fixture(scope="module")
def api(plain: Service) -> Api:
    return plain.api("plain")


def counted(box: Sandbox) -> int:
    return int(box.run("cat /workspace/count 2>/dev/null || echo 0"))


def take(box: Sandbox, **fields: Any) -> dict[str, Any]:
    taken: dict[str, Any] = box.post("/checkpoints", **fields)
    return taken


def fork(api: Api, checkpoint: str) -> Sandbox:
    made = api.call("POST", "?wait=ready", json={"fromCheckpoint": checkpoint})
    assert made["status"] == "ready", made
    return Sandbox(api, made["id"])


def test_sandboxes_live_pause_fork_go_back_and_end_as_in_a_pool(plain: Service, api: Api, isolation: str) -> None:
    box = api.ready(runtime="base", isolation=isolation, ephemeral=False)
    seen = api.get(box.id)
    assert (seen["diskLimit"], seen["isolation"]) == (False, isolation)
    box.write("/workspace/own", b"before")
    box.run("echo '#!/bin/sh\necho tool' > /usr/local/bin/tool; chmod +x /usr/local/bin/tool; rm /etc/debian_version")
    box.background(COUNTER)
    eventually("it to count", lambda: counted(box) > 3, 20)
    taken = take(box)
    box.write("/workspace/own", b"after")
    other = fork(api, taken["id"])
    assert other.run("cat /workspace/own; tool; ls /etc/debian_version 2>&1 | grep -c 'No such'") == "beforetool\n1\n"
    before = counted(box)
    keeps = "memory" if isolation == "runsc" else "files"
    assert (box.pause()["status"], api.get(box.id)["pauseKeeps"]) == ("paused", keeps)
    assert box.resume()["status"] in ("ready", "active")
    assert box.read("/workspace/own") == b"after"
    if keeps == "memory":
        eventually("it to count on", lambda: counted(box) > before, 20)
    api.call("POST", "/checkpoints/restore", params={"wait": "ready"}, json={"checkpointId": taken["id"]})
    api.wait_status(box.id, "ready", "active")
    assert box.read("/workspace/own") == b"before"
    for one in (box, other):
        assert api.delete(one.id) == {"ok": True}
    api.call("DELETE", "/checkpoints", params={"checkpointId": taken["id"]})
    plain.wait_clean()


def halves(plain: Service) -> list[str]:
    """Trees that are half there, by their place below the directory."""
    disks = plain.lib / "disks"
    return [str(path.relative_to(disks)) for kind in ("*", "*/*") for path in disks.glob(f"{kind}/.half-*")]


def test_a_node_that_is_killed_while_it_copies_leaves_nothing_half(plain: Service, api: Api, isolation: str) -> None:
    box = api.ready(runtime="base", isolation=isolation, ephemeral=False)
    box.run("mkdir /workspace/parts; cd /workspace/parts; head -c 60000000 /dev/urandom | split -b 20000 -a 4")
    box.run("cd /workspace/parts; cat * | sha256sum > /workspace/sum")
    box.background(COUNTER)
    seen = []
    with ThreadPoolExecutor() as threads:
        for _ in range(3):
            taking = threads.submit(api.ask, "POST", "/checkpoints", json={"id": box.id})
            eventually("a copy under way", lambda taking=taking: halves(plain) or taking.done(), 60, 0.002)
            seen += halves(plain)
            plain.restart("node")
            taking.exception(90)
    assert seen, "no copy was cut off, so this shows nothing"
    before = eventually("it to answer", lambda: counted_now(box), 60)
    eventually("it to go on", lambda: counted(box) > before, 60)
    plain.wait_clean()
    assert not halves(plain)
    assert take(box)["keeps"] == "files"
    for taken in api.call("GET", "/checkpoints", params={"id": box.id})["items"]:
        other = fork(api, taken["id"])
        assert other.run("cd /workspace/parts; cat * | sha256sum | diff - /workspace/sum && echo same") == "same\n"
        api.delete(other.id)
        api.call("DELETE", "/checkpoints", params={"checkpointId": taken["id"]})
    api.delete(box.id)
    plain.wait_clean()


def counted_now(box: Sandbox) -> int | None:
    """What has been counted; None while a machine is not reached that stands still yet."""
    with contextlib.suppress(Refused):
        return counted(box)
    return None


def test_what_a_killed_node_left_half_goes_when_the_next_one_starts(plain: Service) -> None:
    plain.kill("node")
    for place in ("machines", "images"):
        left = plain.lib / "disks" / place / ".half-left"
        left.mkdir()
        (left / "rest").write_text("of a copy")
    plain.start("node")
    plain.wait_ready()
    assert not halves(plain)


def test_all_goes_on_from_the_store_when_the_node_has_lost_everything(plain: Service, api: Api, isolation: str) -> None:
    box = api.ready(runtime="base", isolation=isolation, ephemeral=False)
    box.run("echo mine > /workspace/own; ln /workspace/own /workspace/twin; rm /etc/debian_version")
    taken = take(box)["id"]

    def stored() -> bool:
        (found,) = api.call("GET", "/checkpoints", params={"id": box.id})["items"]
        return bool(found["durability"] == "store")

    eventually("the checkpoint to be in the store", stored, 60)
    plain.lose_the_node()
    other = fork(api, taken)
    assert other.run("cat /workspace/twin; stat -c %h /workspace/own; test -e /etc/debian_version || echo gone") == (
        "mine\n2\ngone\n"
    )
    for one in (box, other):
        api.delete(one.id)
    api.call("DELETE", "/checkpoints", params={"checkpointId": taken})


def test_no_pool_is_used_and_doctor_says_what_that_costs(plain: Service) -> None:
    table = Path(f"/proc/{plain.running['node'].pid}/mountinfo").read_text().splitlines()
    assert [line for line in table if str(plain.lib / "disks") in line or "/pool " in line]
    assert not [line for line in table if str(plain.root) in line and " - btrfs " in line]
    assert not (plain.lib / "pool.img").exists()
    told = json.loads(plain.command("doctor", "--json").stdout)["findings"]
    found = {one["subject"]: one for one in told}
    assert "No sandbox's disk has a limit" in found["directory"]["mend"]
    assert "btrfs" not in found
    for port in ("API port", "preview port"):
        assert found[port]["verdict"] == "ok"
        assert "this installation's own" in found[port]["seen"]


def test_a_node_does_not_leave_what_it_has_for_another_kind_of_disk(plain: Service) -> None:
    plain.stop("node")
    plain.settings["BOXKEEP_NODE__DISKS"] = "pool"
    refused = plain.command("node", check=False)
    plain.settings["BOXKEEP_NODE__DISKS"] = "directory"
    assert refused.returncode == 1
    assert str(plain.lib / "disks") in refused.stderr
    assert not (plain.lib / "pool.img").exists()
    plain.start("node")
    plain.wait_ready()
