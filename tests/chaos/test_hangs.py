"""What hangs and later goes on, or is given up: a node, a control plane, a guest. Nothing waits for ever, and no
command ends twice or never."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.chaos.askers import Asker
from tests.chaos.bodies import body_of
from tests.chaos.facts import all_holds, all_of
from tests.chaos.grounds import Ground
from tests.clients import Sandbox, eventually
from tests.services import Service

NODE_CALL_S = 10
GUEST_ANSWER_S = 30
LAST_LOOK_S = 30


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Within it these processes hang; afterwards those that are left go on."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue


def pid_of(service: Service, name: str) -> int:
    return service.running[name].pid


def test_a_node_that_hangs_holds_up_nothing_but_what_it_is_asked(ground: Ground) -> None:
    api = ground.service.api("hanging-node")
    asker = Asker(api)
    boxes = [api.ready(runtime="base", isolation=one, ephemeral=False) for one in ("runc", "runsc")]
    ending, pausing = boxes[0], boxes[1]
    worker = api.ready(runtime="base", isolation="runc")
    pausing.write("/workspace/kept", b"kept")
    with stopped(pid_of(ground.service, "node")):
        began = time.monotonic()
        assert asker.exec(worker.id, "echo on").json()["stdout"] == "on\n"
        assert asker.create("queued-meanwhile") is not None
        assert asker.ask("DELETE", "", 5, params={"id": ending.id}).status_code == 200
        assert asker.ask("POST", "/pause", 5, json={"id": pausing.id}).status_code == 200
        assert httpx.get(f"{ground.service.url}/readyz", timeout=NODE_CALL_S + 5).status_code == 503
        assert worker.read("/etc/hostname")
        assert time.monotonic() - began > NODE_CALL_S, "it did not hang for long enough to be given up"
    api.wait_status(asker.ledger.created["queued-meanwhile"], "ready", "active")
    api.wait_status(pausing.id, "paused")
    assert pausing.resume()["status"] == "ready"
    assert pausing.read("/workspace/kept") == b"kept"
    eventually("it to end", lambda: api.get(ending.id)["status"] == "ended", 30)
    all_holds(ground, api, asker.ledger)


def test_a_control_plane_that_hangs_loses_nothing_and_the_node_keeps_time(ground: Ground) -> None:
    api = ground.service.api("hanging-control")
    asker = Asker(api)
    box = api.ready(runtime="base", isolation="runc")
    short = api.ready(runtime="base", isolation="runsc", maxDurationMs=3000)
    ticker = box.background("for n in $(seq 60); do echo $n; sleep 0.1; done; exit 7")
    wish = {"json": {"runtime": "base", "name": "asked-twice"}, "headers": {"Idempotency-Key": "asked-twice"}}
    with stopped(pid_of(ground.service, "serve")):
        with pytest.raises(httpx.TimeoutException):
            api.ask("POST", "", timeout=1, **wish)
        machine = body_of(ground.service, short.id)
        eventually("its node to end it", lambda: not os.path.exists(f"/proc/{machine.of('sentry')[0]}"), 20)
    assert asker.ask("POST", "", 10, **wish).status_code == 200
    assert len([one for one in all_of(api) if one["name"] == "asked-twice"]) == 1
    ended = eventually("it to be over", lambda: _over(api.get(short.id)), 20)
    assert (ended["status"], ended["reason"]) == ("ended", "max_duration")
    done = box.wait(ticker)
    assert (done["outcome"], done["exitCode"]) == ("exited", 7)
    assert box.output(ticker).split() == [str(n).encode() for n in range(1, 61)]
    all_holds(ground, api, asker.ledger)


def _over(seen: dict[str, Any]) -> dict[str, Any] | None:
    return seen if seen["status"] in ("ended", "failed") else None


def test_a_guest_that_hangs_is_told_in_time_goes_on_and_can_be_deleted(ground: Ground) -> None:
    api = ground.service.api("hanging-guests")
    asker = Asker(api)
    boxes = {
        (one, fate): api.ready(runtime="base", isolation=one) for one in ("runc", "runsc") for fate in ("on", "end")
    }
    frozen = [pid for box in boxes.values() for pid in body_of(ground.service, box.id).of("first", "inner", "sentry")]
    with ThreadPoolExecutor(16) as threads, stopped(*frozen):
        runs = {
            of: threads.submit(asker.exec, box.id, "echo ran", GUEST_ANSWER_S + 12, timeout=2000)
            for of, box in boxes.items()
        }
        reads = [threads.submit(_read, asker, box) for box in boxes.values()]
        ends = [box for (_, fate), box in boxes.items() if fate == "end"]
        for box in ends:
            assert asker.ask("DELETE", "", 5, params={"id": box.id}).status_code == 200
        for box in ends:
            eventually("it to end", lambda box=box: api.get(box.id)["status"] == "ended", LAST_LOOK_S + 20, 0.5)
        assert {read.result(GUEST_ANSWER_S + 15).status_code for read in reads} <= {409, 503, 504}
        for (_, fate), run in runs.items():
            answer = run.result(GUEST_ANSWER_S + 15)
            assert answer.status_code == (200 if fate == "end" else 504), answer.text
            assert fate == "on" or answer.json()["outcome"] == "sandbox_ended"
    for (_, fate), box in boxes.items():
        if fate == "on":
            assert box.run("echo again") == "again\n"
            eventually("its commands to be settled", lambda box=box: all(one["outcome"] for one in box.processes()), 20)
    all_holds(ground, api, asker.ledger)


def _read(asker: Asker, box: Sandbox) -> httpx.Response:
    query = {"id": box.id, "path": "/etc/hostname"}
    return asker.ask("GET", "/fs/read", GUEST_ANSWER_S + 5, params=query)
