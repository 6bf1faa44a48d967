"""kill -9 of every service, alone and together: sandboxes, commands, terminals and files go on and are found again."""

import threading

import httpx
import pytest

from tests.clients import Api, Refused, Sandbox, eventually, fresh
from tests.services import Service
from tests.terminals import Terminal

TOGETHER = [("serve",), ("node",), ("serve", "node")]


@pytest.mark.parametrize("killed", TOGETHER, ids="+".join)
def test_after_a_kill_everything_goes_on(service: Service, api: Api, sandbox: Sandbox, killed: tuple[str, ...]) -> None:
    runner = sandbox.background("for n in $(seq 100); do echo $n; sleep 0.1; done; exit 5")
    done = sandbox.exec("echo done before")
    sandbox.write("/workspace/kept", b"kept")
    url = api.call("GET", "/terminal", params={"id": sandbox.id})["terminalUrl"]
    with Terminal(url) as terminal:
        terminal.type("HELD=still-here; echo set-$((1 + 1))\r")
        terminal.until("set-2")
    before = api.get(sandbox.id)

    service.restart(*killed)

    after = api.get(sandbox.id)
    same = ("id", "status", "isolation", "createdAt", "startedAt", "expiresAt", "runtime", "region")
    assert {name: after[name] for name in same} | {"status": ""} == {name: before[name] for name in same} | {
        "status": ""
    }
    assert after["status"] in ("ready", "active")
    assert sandbox.read("/workspace/kept") == b"kept"
    assert sandbox.output(done["processId"]) == b"done before\n"
    assert sandbox.process(done["processId"])["outcome"] == "exited"
    ended = sandbox.wait(runner)
    assert (ended["outcome"], ended["exitCode"]) == ("exited", 5), ended
    assert sandbox.output(runner).split() == [str(n).encode() for n in range(1, 101)]
    eventually("its outcome to be in the list", lambda: sandbox.process(runner)["outcome"] == "exited", 10)
    with Terminal(api.call("GET", "/terminal", params={"id": sandbox.id})["terminalUrl"]) as other:
        other.type("echo fresh-$((3 + 3))\r")
        other.until("fresh-6")
    with Terminal(url) as again:
        again.type("echo $HELD-$((2 + 2))\r")
        again.until("still-here-4")


def test_a_command_in_the_foreground_while_the_control_plane_dies_has_one_outcome(
    service: Service, sandbox: Sandbox
) -> None:
    sandbox.run("rm -f began go")
    before = {item["processId"] for item in sandbox.processes()}

    def ask() -> None:
        try:
            sandbox.exec("touch began; until [ -e go ]; do sleep 0.1; done; echo finished; exit 9")
        except (httpx.TransportError, Refused):
            cut.set()

    cut = threading.Event()
    asking = threading.Thread(target=ask)
    asking.start()
    eventually("it to begin", lambda: "began" in sandbox.entries(), 10)
    # What began less than 100 ms ago, and was not answered, need not be written yet.
    eventually("it to be written", lambda: {item["processId"] for item in sandbox.processes()} - before, 10)
    service.kill("serve")
    asking.join(10)
    service.start("serve")
    service.wait_ready()
    assert cut.is_set()
    new = [item for item in sandbox.processes() if "began" in str(item.get("command"))]
    new = [item for item in new if item["processId"] not in before]
    assert len(new) == 1, new
    process = new[0]["processId"]
    sandbox.run("touch go")
    assert sandbox.wait(process)["exitCode"] == 9
    assert sandbox.output(process) == b"finished\n"


def test_a_sandbox_deleted_while_the_node_is_dead_is_gone_when_it_is_back(service: Service, api: Api) -> None:
    box = api.ready(runtime="base", isolation="runc")
    service.kill("node")
    assert api.delete(box.id) == {"ok": True}
    service.start("node")
    service.wait_ready()
    eventually("to end", lambda: api.get(box.id)["status"] == "ended", 30)
    service.wait_clean()


def test_a_create_while_the_node_is_dead_is_queued_and_made_when_it_is_back(service: Service, api: Api) -> None:
    service.kill("node")
    created = api.create(runtime="base", isolation="runc")
    assert created["status"] == "queued"
    service.start("node")
    service.wait_ready()
    api.wait_status(created["id"], "ready")
    assert Sandbox(api, created["id"]).run("echo made") == "made\n"
    api.delete(created["id"])


def test_an_operators_restart_by_sigterm_keeps_the_sandboxes(service: Service, api: Api) -> None:
    with fresh(api, runtime="base", isolation="runc") as box:
        process = box.background("sleep 1; echo through")
        for name in ("serve", "node"):
            service.stop(name)
        for name in ("node", "serve"):
            service.start(name)
        service.wait_ready()
        assert box.wait(process)["exitCode"] == 0
        assert box.output(process) == b"through\n"
