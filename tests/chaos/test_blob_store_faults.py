"""A store of blobs that is away, silent, slow, cut off, forgetful or lying: what it damages is refused, and never taken
by half; the rest goes on, and what was owed is made up for."""

import hashlib
from typing import Any

import httpx
import pytest

from tests.chaos.askers import Asker
from tests.chaos.facts import all_holds
from tests.chaos.grounds import BLOBS_WITHIN_S, Ground
from tests.chaos.proxies import Fault
from tests.clients import Api, Sandbox, eventually

SIZE = 3_000_000
BOUND_S = 6 * BLOBS_WITHIN_S
READING = [one for one in Fault if one not in (Fault.NONE, Fault.CORRUPT_PUTS)]


@pytest.fixture
def asker(ground: Ground, request: pytest.FixtureRequest) -> Asker:
    """A client of an organisation of the test's own."""
    return Asker(ground.service.api(request.node.name.replace("[", "-").replace("]", "").replace(" ", "-")[:60]))


def with_file(api: Api, name: str) -> Sandbox:
    box = api.ready(runtime="base", isolation="runc", ephemeral=False)
    box.run(f"head -c {SIZE} /dev/urandom > /workspace/{name}")
    return box


def digest_of(box: Sandbox, name: str) -> str:
    return box.run(f"sha256sum /workspace/{name}").split()[0]


def publish(asker: Asker, box: Sandbox, name: str) -> httpx.Response:
    return asker.ask("POST", "/artifacts", BOUND_S, json={"id": box.id, "path": f"/workspace/{name}", "key": name})


def downloaded(api: Api, box: Sandbox, name: str) -> bytes | int:
    """The bytes of an artifact, or the status that refused them, or 0 where they broke off."""
    url = api.call("GET", "/artifacts/url", params={"id": box.id, "key": name})["url"]
    try:
        response = httpx.get(url, timeout=BOUND_S)
    except httpx.TransportError:
        return 0
    return response.content if response.status_code == 200 else response.status_code


def test_no_download_is_whole_and_wrong_whatever_the_store_does(ground: Ground, asker: Asker) -> None:
    api = asker.api
    box = with_file(api, "kept")
    digest = digest_of(box, "kept")
    assert publish(asker, box, "kept").status_code == 200
    for fault in READING:
        with ground.store.with_fault(fault):
            came = downloaded(api, box, "kept")
        whole = isinstance(came, bytes)
        assert came in (0, 503, 504) or (whole and hashlib.sha256(came).hexdigest() == digest), fault
        assert not whole or fault not in (Fault.AWAY, Fault.CUT, Fault.CORRUPT_ANSWERS, Fault.SILENT), fault
    came = downloaded(api, box, "kept")
    assert isinstance(came, bytes)
    assert hashlib.sha256(came).hexdigest() == digest
    api.call("DELETE", "/artifacts", params={"id": box.id, "key": "kept"})
    all_holds(ground, api, asker.ledger)


def test_what_is_published_is_there_or_refused_with_a_sentence(ground: Ground, asker: Asker) -> None:
    api = asker.api
    box = with_file(api, "work")
    digest = digest_of(box, "work")
    box.run("echo small > /workspace/small")
    for fault in READING:
        name = fault.value.replace(" ", "-")
        box.run(f"cp /workspace/work /workspace/{name}")
        with ground.store.with_fault(fault):
            publish(asker, box, "small")
            answer = publish(asker, box, name)
        listed = {one["key"] for one in api.call("GET", "/artifacts", params={"id": box.id})["items"]}
        assert (name in listed) == (answer.status_code == 200), fault
        assert answer.status_code in (200, 503, 504), answer.text
        assert publish(asker, box, name).status_code == 200
        came = downloaded(api, box, name)
        assert isinstance(came, bytes)
        assert hashlib.sha256(came).hexdigest() == digest
        for key in (name, "small"):
            api.ask("DELETE", "/artifacts", params={"id": box.id, "key": key})
    all_holds(ground, api, asker.ledger)


def test_what_the_store_has_damaged_is_refused_and_not_half_applied(ground: Ground, asker: Asker) -> None:
    api = asker.api
    boxes = [with_file(api, "own") for _ in range(2)]
    digests = [digest_of(box, "own") for box in boxes]
    whole, damaged = boxes
    with ground.store.with_fault(Fault.CORRUPT_PUTS):
        published = publish(asker, damaged, "own")
        assert published.status_code != 200 or downloaded(api, damaged, "own") == 0
        assert damaged.pause()["status"] == "paused"
        _stored(api, damaged)
    with ground.store.with_fault(Fault.CUT):
        assert whole.pause()["status"] == "paused"
    _stored(api, whole)
    ground.service.lose_the_node()
    for fault, reasons in (
        (Fault.AWAY, {"store_away"}),
        (Fault.CUT, {"store_away", "snapshot_unfit"}),
        (Fault.CORRUPT_ANSWERS, {"snapshot_unfit"}),
    ):
        with ground.store.with_fault(fault):
            assert _refused(api, whole)["reason"] in reasons, fault
            ground.service.wait_clean(20)
    assert _refused(api, damaged)["reason"] == "snapshot_unfit"
    assert whole.resume()["status"] == "ready"
    assert digest_of(whole, "own") == digests[0]
    api.ask("DELETE", "/artifacts", params={"id": damaged.id, "key": "own"})
    all_holds(ground, api, asker.ledger)


def _stored(api: Api, box: Sandbox) -> None:
    eventually("the pause to be in the store", lambda: api.get(box.id)["pauseDurability"] == "store", 60, 0.2)


def _refused(api: Api, box: Sandbox) -> dict[str, Any]:
    """A paused sandbox whose resume was refused: paused as before, with the reason."""
    api.call("POST", "/resume", json={"id": box.id})

    def look() -> dict[str, Any] | None:
        seen = api.get(box.id)
        assert seen["status"] not in ("ready", "active", "failed"), seen
        return seen if seen["status"] == "paused" else None

    return eventually("it to be paused again", look, 60, 0.2)
