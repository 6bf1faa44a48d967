"""Checkpoints and forks by HTTP: taken of what runs, begun from, gone back to, and left behind by what dies."""

import contextlib
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.clients import Api, Refused, Sandbox, eventually, fresh
from tests.services import Service
from tests.system.test_main_job_pausing import COUNTER, counted


def take(box: Sandbox, **fields: Any) -> dict[str, Any]:
    taken: dict[str, Any] = box.post("/checkpoints", **fields)
    return taken


def forks_of(api: Api, checkpoint: dict[str, Any], count: int, **fields: Any) -> list[Sandbox]:
    wish = {"fromCheckpoint": checkpoint["id"], "count": count, **fields}
    items = api.call("POST", "?wait=ready", json=wish)["items"]
    assert [item["status"] for item in items] == ["ready"] * count
    return [Sandbox(api, item["id"]) for item in items]


def end(api: Api, *boxes: Sandbox) -> None:
    for box in boxes:
        api.delete(box.id)


def pid_of(service: Service, box: Sandbox) -> int:
    """The first process of a sandbox's machine, as its node wrote it down."""
    bindings = (json.loads(path.read_text()) for path in (service.lib / "claims").glob("*.json"))
    machine = next(binding["machine"] for binding in bindings if binding["sandbox"] == box.id)
    return int(json.loads((service.lib / "machines" / f"{machine}.json").read_text())["pid"])


def counted_now(box: Sandbox) -> int | None:
    """What has been counted; None while a machine is not reached that stands still yet."""
    with contextlib.suppress(Refused):
        return counted(box)
    return None


def forget(api: Api, checkpoint: dict[str, Any]) -> int:
    return api.ask("DELETE", "/checkpoints", params={"checkpointId": checkpoint["id"]}).status_code


def test_forks_begin_with_all_files_and_packages_and_are_of_their_own(api: Api, isolation: str) -> None:
    with fresh(api, runtime="base", isolation=isolation, ephemeral=False, env={"SECRET": "s"}) as box:
        box.write("/workspace/own", b"before")
        box.run("echo '#!/bin/sh\necho tool' > /usr/local/bin/tool; chmod +x /usr/local/bin/tool")
        counter = box.background(COUNTER)
        eventually("it to count", lambda: counted(box) > 3, 20)
        before = counted(box)
        taken = take(box, name="first")
        assert (taken["keeps"], taken["name"], taken["sandboxId"], taken["isolation"]) == (
            "files",
            "first",
            box.id,
            isolation,
        )
        box.write("/workspace/own", b"after")
        assert box.process(counter)["state"] == "running"
        forks = forks_of(api, taken, 2, env={"OTHER": "o"})
        for fork in forks:
            assert fork.run("cat /workspace/own; tool") == "beforetool\n"
            assert counted(fork) >= before
            assert fork.run("echo $SECRET$OTHER") == "o\n"
            assert api.get(fork.id)["fromCheckpoint"] == taken["id"]
        names = {one.run("hostname; cat /etc/machine-id /run/boxkeep/generation") for one in (box, *forks)}
        assert len({line for name in names for line in name.split()}) == 9
        end(api, *forks)
    listed = api.ask("GET", "/checkpoints").json()["items"]
    assert taken in listed
    assert forget(api, taken) == 200
    assert forget(api, taken) == 404


def test_memory_is_forked_while_commands_go_on(api: Api) -> None:
    with fresh(api, runtime="python", isolation="runsc", ephemeral=False) as box:
        counter = box.background(COUNTER)
        eventually("it to count", lambda: counted(box) > 3, 20)
        with ThreadPoolExecutor() as threads:
            foreground = threads.submit(box.exec, "sleep 3; echo done")
            time.sleep(0.5)
            taken = take(box, memory=True)
            assert foreground.result(60)["stdout"] == "done\n"
        assert (taken["keeps"], taken["lost"]) == ("memory", None)
        reached = counted(box)
        eventually("the original to go on", lambda: counted(box) > reached, 20)
        box.post("/processes/signal", processId=counter, signal="KILL")
        forks = forks_of(api, taken, 5)
        for fork in forks:
            at = counted(fork)
            eventually("the fork to go on", lambda fork=fork, at=at: counted(fork) > at, 20)
            assert fork.run("hostname") == f"sandbox-{fork.id[:8]}\n"
        end(api, *forks)
    assert forget(api, taken) == 200


def test_memory_of_a_checkpoint_can_be_done_without(api: Api) -> None:
    with fresh(api, runtime="base", isolation="runsc", ephemeral=False) as box:
        box.write("/workspace/own", b"kept")
        command = box.background("sleep 300")
        taken = take(box, memory=True)
        box.write("/workspace/own", b"after")
        with fresh(api, fromCheckpoint=taken["id"], memory=False) as fork:
            assert fork.run("cat /workspace/own; grep -lx sleep /proc/[0-9]*/comm || true") == "kept"
        with fresh(api, fromCheckpoint=taken["id"], memory=True) as fork:
            assert fork.run("grep -lx sleep /proc/[0-9]*/comm | wc -l") == "1\n"
        body = {"checkpointId": taken["id"], "memory": False}
        assert api.call("POST", "/checkpoints/restore?wait=ready", json=body)["status"] in ("ready", "active")
        assert box.run("cat /workspace/own; grep -lx sleep /proc/[0-9]*/comm || true") == "kept"
        assert box.process(command)["outcome"] == "rolled_back"
    assert forget(api, taken) == 200


def test_memory_is_kept_while_calls_come_in(api: Api) -> None:
    """Calls whose connection is just being opened when memory is written made gVisor refuse to write it; those whose
    connection had just been opened made it of no use: no machine that went on from it ever answered."""
    done = threading.Event()

    def call(box: Sandbox) -> set[int]:
        seen = set()
        while not done.is_set():
            seen.add(api.ask("POST", "/exec", json={"id": box.id, "command": "true", "args": []}).status_code)
        return seen

    with fresh(api, runtime="base", isolation="runsc", ephemeral=False) as box, ThreadPoolExecutor() as pool:
        callers = [pool.submit(call, box) for _ in range(4)]
        try:
            taken = [take(box, memory=True) for _ in range(10)]
        finally:
            done.set()
        assert {one["keeps"] for one in taken} == {"memory"}
        for caller in callers:
            assert caller.result(60) <= {200, 503}, "a call was refused for good while a checkpoint was taken"
    for one in taken:
        with fresh(api, fromCheckpoint=one["id"]) as fork:
            assert fork.run("echo here") == "here\n"
        assert forget(api, one) == 200


def test_a_sandbox_goes_back_and_commands_that_are_not_in_it_say_so(api: Api, isolation: str) -> None:
    with fresh(api, runtime="base", isolation=isolation, ephemeral=False) as box:
        box.write("/workspace/own", b"before")
        taken = take(box, memory=True)
        box.write("/workspace/own", b"after")
        command = box.background("sleep 300")
        with ThreadPoolExecutor() as threads:
            waiting = threads.submit(box.exec, "sleep 300")
            time.sleep(0.5)
            answer = api.ask("POST", "/checkpoints/restore?wait=ready", json={"checkpointId": taken["id"]})
            assert (answer.status_code, answer.json()["status"]) == (200, "ready")
            assert waiting.result(60)["outcome"] == "rolled_back"
        assert box.process(command)["outcome"] == "rolled_back"
        assert box.run("cat /workspace/own") == "before"
        told = [item["type"] for item in api.ask("GET", "/timeline", params={"id": box.id}).json()["items"]]
        assert "sandbox.checkpoint.restored" in told
    assert forget(api, taken) == 200


def test_a_machine_that_dies_leaves_its_files_to_begin_from(api: Api, isolation: str, service: Service) -> None:
    with fresh(api, runtime="base", isolation=isolation, ephemeral=False) as box:
        box.write("/workspace/work", b"a day of it")
        os.kill(pid_of(service, box), signal.SIGKILL)
        eventually("it to have failed", lambda: api.get(box.id)["status"] == "failed", 30)

        def left() -> list[dict[str, Any]]:
            return list(api.ask("GET", "/checkpoints", params={"id": box.id}).json()["items"])

        eventually("what it left", lambda: len(left()) == 1, 30)
        (last,) = left()
        assert last["name"] == "last"
        (fork,) = forks_of(api, last, 1)
        assert fork.run("cat /workspace/work") == "a day of it"
        end(api, fork)
        assert forget(api, last) == 200


def test_a_kill_of_everything_at_a_checkpoint_loses_nothing(api: Api, isolation: str, service: Service) -> None:
    with fresh(api, runtime="base", isolation=isolation, ephemeral=False) as box:
        box.background(COUNTER)
        eventually("it to count", lambda: counted(box) > 3, 20)
        for pause_s in (0.0, 0.05, 0.3):
            with ThreadPoolExecutor() as threads:
                taking = threads.submit(api.ask, "POST", "/checkpoints", json={"id": box.id, "memory": True})
                time.sleep(pause_s)
                service.restart("serve", "node")
                taking.exception(60)
            reached = eventually("it to answer", lambda: counted_now(box), 30)
            eventually("it to go on", lambda reached=reached: counted(box) > reached, 30)
        eventually("all to be settled", lambda: bool(take(box)["id"]), 30)
        for one in api.ask("GET", "/checkpoints", params={"id": box.id}).json()["items"]:
            (fork,) = forks_of(api, one, 1)
            assert counted(fork) > 0
            end(api, fork)
            assert forget(api, one) == 200
