"""No room at all, for the disks of sandboxes and what is kept of them, or for the database: what is acknowledged stays,
what is refused says why, and once there is room all goes on by itself."""

import os
import threading
from functools import partial
from itertools import count, takewhile
from typing import Any

from tests.chaos.askers import Asker
from tests.chaos.facts import all_holds
from tests.chaos.grounds import Ground
from tests.clients import Api, Sandbox, eventually

ISOLATIONS = ("runc", "runsc")
ROUNDS = 20 if os.environ.get("SOAK") else 2
_NUMBERS = count()


def boxes_of(api: Api) -> list[Sandbox]:
    """One of each isolation, with a file that was there before."""
    made = [api.ready(runtime="base", isolation=one, ephemeral=False) for one in ISOLATIONS]
    for box in made:
        box.write("/workspace/kept", b"kept" * 1000)
    return made


def test_a_full_pool_refuses_what_needs_room_and_keeps_what_is_there(ground: Ground) -> None:
    api = ground.service.api("full-pool")
    asker = Asker(api)
    boxes = boxes_of(api)
    before = {box.id: box.post("/checkpoints")["id"] for box in boxes}
    away = api.ready(runtime="base", isolation="runc", ephemeral=False)
    away.write("/workspace/kept", b"kept" * 1000)
    assert away.pause()["status"] == "paused"
    with ground.full_pool():
        for box in boxes:
            assert asker.exec(box.id, "head -c 50000000 /dev/zero > /workspace/more").json()["exitCode"] != 0
            assert "No space left" in asker.exec(box.id, "echo x$(seq 100000) > /workspace/more").json()["stderr"]
            _refused_for_room(asker.ask("PUT", "/fs/upload", 20, params=_at(box, "u"), content=b"u" * 5_000_000))
            _refused_for_room(asker.ask("POST", "/fs/write", 20, json={**_at(box, "kept"), "content": "w" * 200_000}))
            assert box.read("/workspace/kept") == b"kept" * 1000
            _refused_for_room(asker.ask("POST", "/checkpoints", 30, json={"id": box.id}))
            paused = asker.ask("POST", "/pause?wait=paused&timeoutMs=20000", 30, json={"id": box.id})
            assert (paused.json()["status"], api.get(box.id)["reason"]) == ("ready", "no_space")
            asker.ask("POST", "/checkpoints/restore", 30, json={"checkpointId": before[box.id]})
        asker.create("into-a-full-pool")
        asker.ask("POST", "/resume?wait=ready&timeoutMs=5000", 30, json={"id": away.id})
    for box in (*boxes, away):
        _comes_back(api, box)
        assert box.read("/workspace/kept") == b"kept" * 1000
        assert box.run("seq 100000 > /workspace/more; wc -l < /workspace/more") == "100000\n"
        assert box.post("/checkpoints")["id"]
        assert box.pause()["status"] == "paused"
    all_holds(ground, api, asker.ledger)


def _at(box: Sandbox, name: str) -> dict[str, Any]:
    return {"id": box.id, "path": f"/workspace/{name}"}


def _refused_for_room(response: Any) -> None:
    assert response.status_code == 507, response.text


def _comes_back(api: Api, box: Sandbox) -> None:
    """A sandbox is ready once more, asked again where it could not be for the lack of room."""

    def look() -> bool:
        status = api.get(box.id)["status"]
        assert status not in ("failed", "ended"), api.get(box.id)
        if status == "paused":
            api.ask("POST", "/resume", json={"id": box.id})
        return status in ("ready", "active")

    eventually("it to be ready again", look, 60, 0.2)


def test_a_full_disk_of_the_database_loses_nothing_that_was_acknowledged(ground: Ground) -> None:
    api = ground.service.api("full-disk")
    asker = Asker(api)
    boxes = boxes_of(api)
    ending = [box.background("sleep 1.5; echo over; exit 3") for box in boxes]
    with ground.full_disk():
        _until_refused(asker)
        answers = []
        for box in boxes:
            for path, body in (("/exec", {"command": "echo x"}), ("/checkpoints", {}), ("/pause", {})):
                answers.append(asker.ask("POST", path, 20, json={"id": box.id, **body}))
            answers.append(asker.ask("GET", "/processes", 20, params={"id": box.id}))
            assert api.get(box.id)["status"]
        assert 503 in {one.status_code for one in answers}
    for box, process in zip(boxes, ending, strict=True):
        _comes_back(api, box)
        assert box.read("/workspace/kept") == b"kept" * 1000
        done = box.wait(process)
        assert (done["outcome"], done["exitCode"]) in (("exited", 3), ("lost_on_files_pause", None))
        assert box.run("echo on") == "on\n"
        assert box.pause()["status"] == "paused"
    all_holds(ground, api, asker.ledger)


def test_a_disk_that_fills_up_under_work_answers_and_keeps_what_it_answered(ground: Ground) -> None:
    api = ground.service.api("filling")
    asker = Asker(api)
    box = api.ready(runtime="base", isolation="runc")
    done = threading.Event()
    works = (partial(_run_commands, asker, box, done), partial(_make_and_end, asker, done))
    workers = [threading.Thread(target=work) for work in works]
    for worker in workers:
        worker.start()
    for _ in range(ROUNDS):
        _until_more(asker)
        with ground.full_disk():
            _until_refused(asker)
    _until_more(asker)
    done.set()
    for worker in workers:
        worker.join()
    lines = box.read("/workspace/log").split()
    assert len(lines) == len(set(lines)) >= asker.ledger.lines(box.id)
    all_holds(ground, api, asker.ledger)


def _run_commands(asker: Asker, box: Sandbox, done: threading.Event) -> None:
    for number in takewhile(lambda _: not done.is_set(), count()):
        asker.exec(box.id, f"echo {number} >> /workspace/log")


def _make_and_end(asker: Asker, done: threading.Event) -> None:
    for number in takewhile(lambda _: not done.is_set(), count()):
        if (made := asker.create(f"filling-{number}")) is not None:
            asker.ask("DELETE", "", 20, params={"id": made})


def _until_more(asker: Asker) -> None:
    """Until more of both was acknowledged."""
    made, ran = len(asker.ledger.created), len(asker.ledger.finished)
    eventually("creates", lambda: len(asker.ledger.created) > made + 1, 30)
    eventually("commands", lambda: len(asker.ledger.finished) > ran + 1, 30)


def _until_refused(asker: Asker) -> None:
    """Until the store has refused something: what has room in its log already is written yet."""
    eventually("a refusal", lambda: asker.create(f"one-too-many-{next(_NUMBERS)}") is None, 20)
