"""Browsers in machines of their own: used as any other, out of the code's reach as the code is out of theirs, and one
with their sandbox."""

import contextlib
import json
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from os import kill
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Error

from tests.browser.remote import BROWSER, READY_S, driven, front, told, until_ready
from tests.chaos.bodies import bodies
from tests.clients import Api, Sandbox, eventually, fresh
from tests.services import Service

PAIRED: dict[str, Any] = {**BROWSER, "mode": "paired-banata-browser", "persistentProfile": True, "recording": True}
ASKS = """url => fetch(url, {mode: "no-cors", signal: AbortSignal.timeout(20000)})
    .then(() => "reached", error => error.name)"""
DOOR = "http://127.0.0.1:9222/json/version"
COOKIE: Any = {"name": "kept", "value": "yes", "domain": "example.com", "path": "/", "expires": time.time() + 9e6}
VERSION = f"curl -s --retry 20 --retry-all-errors --retry-delay 1 {DOOR}"
COUNTS = "<title>0</title><script>setInterval(() => document.title = Number(document.title) + 1, 100)</script>"


@dataclass(frozen=True)
class Machine:
    """One machine of a sandbox as its node has written it down."""

    id: str
    role: str
    address: str
    port: int


def machines(service: Service, sandbox: str) -> dict[str, Machine]:
    """The machines of a sandbox by role."""
    bindings = [json.loads(path.read_bytes()) for path in (service.lib / "claims").glob("*.json")]
    return {
        one["role"]: Machine(one["machine"], one["role"], one["address"], one["port"])
        for one in bindings
        if one["sandbox"] == sandbox
    }


@pytest.fixture(scope="module")
def service(equipped: Service) -> Service:
    return equipped


@pytest.fixture(scope="module")
def api(service: Service) -> Api:
    return service.api("paired", "pro")


@pytest.fixture(scope="module")
def box(api: Api, isolation: str) -> Iterator[Sandbox]:
    """A sandbox whose browser is in a machine of its own, and ready."""
    wish = {"ephemeral": False, "env": {"TOKEN": "of the code"}, "capabilities": {"browser": PAIRED}}
    with fresh(api, runtime="python", isolation=isolation, **wish) as made:
        until_ready(made)
        yield made


def test_it_is_driven_from_outside_and_its_code_is_elsewhere(browser: Browser, box: Sandbox, service: Service) -> None:
    remote = driven(browser, box)
    page = front(remote)
    page.set_content("<title>form</title><input id=code><button onclick=\"document.title='pressed'\">press</button>")
    page.fill("#code", "typed from outside")
    page.click("button")
    assert page.title() == "pressed"
    assert page.evaluate("[innerWidth, innerHeight]") == [1280, 720]
    remote.close()
    assert box.exec("ps -e | grep -c -i -e chromium -e xvnc")["stdout"].strip() == "0"
    assert box.exec("command -v chromium")["exitCode"] != 0
    assert "Chrome/" in box.run(VERSION)
    there = machines(service, box.id)
    assert set(there) == {"main", "browser"}
    assert len({one.address for one in there.values()}) == 2


def test_a_person_takes_it_over_and_gives_it_back(browser: Browser, box: Sandbox) -> None:
    remote = driven(browser, box)
    front(remote).set_content("<title>form</title>")
    url = box.api.call("GET", "/preview/viewer", params={"id": box.id, "controller": "ada"})["url"]
    page = browser.new_page(viewport={"width": 1300, "height": 950})
    page.goto(url)
    page.wait_for_selector("#screen canvas", timeout=60_000)
    box.post("/handoff", reason="mfa", message="")
    box.post("/handoff/accept", controller="ada")
    eventually("it to be shared", lambda: _driver(box) == "shared", 20)
    with pytest.raises(Error):
        front(remote).evaluate("document.title = 'the agent was here'")
    assert box.run("curl -s -X PUT -o /dev/null -w '%{http_code}' http://127.0.0.1:9222/json/new") == "409"
    box.post("/handoff/complete")
    eventually("it to be given back", lambda: _driver(box) == "ai", 20)
    again = driven(browser, box)
    assert front(again).title() == "form"
    for one in (again, remote, page):
        one.close()


def _driver(box: Sandbox) -> str:
    mode: str = box.api.get(box.id)["browserPreview"]["controlMode"]
    return mode


def test_page_and_code_do_not_reach_each_other(
    browser: Browser, box: Sandbox, service: Service, isolation: str
) -> None:
    box.run("mkdir -p /tmp/site && echo inside > /tmp/site/index.html")
    served = box.background("cd /tmp/site && exec python3 -m http.server --bind 0.0.0.0 8000")
    eventually("it to listen", lambda: box.exec("curl -sf localhost:8000/")["exitCode"] == 0, 20, 0.2)
    there = machines(service, box.id)
    code, other = there["main"], there["browser"]
    for port in (other.port, 9222, 5900, 22):
        line = f"timeout 5 bash -c '</dev/tcp/{other.address}/{port}' 2>&1"
        assert box.exec(line)["exitCode"] != 0, port
    # Under runc this is what who has broken out of Chromium finds; its renderers have networks with nothing in them.
    inside = [pid for body in bodies(service) if body.machine == other.id for pid in body.of("first")]
    firsts = [pid for pid in inside if _dials(pid, "127.0.0.1", 9222)]
    assert len(firsts) == (isolation == "runc")
    for port in (code.port, 8000):
        assert not any(_dials(pid, code.address, port) for pid in firsts)
    remote = driven(browser, box)
    page = front(remote)
    page.goto("file:///etc/")
    page.goto(DOOR)  # from loopback Chromium itself lets a page ask for anything
    assert page.evaluate(ASKS, DOOR) == "reached"
    for address, port in (("127.0.0.1", 8000), (code.address, 8000), (code.address, code.port)):
        assert page.evaluate(ASKS, f"http://{address}:{port}/") == "TypeError", (address, port)
    with pytest.raises(Error):
        page.goto("file:///tmp/site/")
    remote.close()
    box.post("/processes/signal", processId=served, signal="KILL", tree=True)


def _dials(pid: int, address: str, port: int) -> bool:
    """Whether a connection can be made from the network of a process."""
    line = ["nsenter", f"--net=/proc/{pid}/ns/net", "bash", "-c", f"</dev/tcp/{address}/{port}"]
    return subprocess.run(line, check=False, timeout=10, capture_output=True).returncode == 0


def test_the_death_of_its_machine_costs_the_code_nothing(browser: Browser, box: Sandbox, service: Service) -> None:
    box.run("echo kept > /tmp/kept")
    running = box.background("exec sleep 600")
    lost = machines(service, box.id)["browser"]
    remote = driven(browser, box)
    (body,) = [one for one in bodies(service) if one.machine == lost.id]
    for pid in body.of("sentry", "first"):
        kill(pid, signal.SIGKILL)
    eventually("another machine", lambda: _another(service, box, lost), 60, 0.2)
    until_ready(box)
    again = driven(browser, box)
    front(again).goto("about:blank")
    again.close()
    assert "Chrome/" in box.run(VERSION)
    eventually("its client to have lost it", lambda: not remote.is_connected() or _is_gone(remote), 20)
    assert box.run("cat /tmp/kept") == "kept\n"
    items = box.api.call("GET", "/processes", params={"id": box.id})["items"]
    assert [one["state"] for one in items if one["processId"] == running] == ["running"]
    assert "sandbox.browser.failed" in told(box)
    box.post("/processes/signal", processId=running, signal="KILL", tree=True)


def _another(service: Service, box: Sandbox, lost: Machine) -> bool:
    there = machines(service, box.id)
    assert there["main"]
    return "browser" in there and there["browser"].id != lost.id


def _is_gone(remote: Browser) -> bool:
    try:
        front(remote).evaluate("1")
    except Error:
        return True
    return False


def test_both_go_on_over_a_kill_of_every_service_and_a_pause(
    browser: Browser, box: Sandbox, service: Service, isolation: str
) -> None:
    remote = driven(browser, box)
    page = front(remote)
    page.set_content(COUNTS)
    box.run("echo kept > /workspace/kept")
    eventually("it to count", lambda: int(page.title()) > 2, 20)
    before = machines(service, box.id)
    service.restart("node", "serve")
    remote = driven(browser, box)
    counted = int(front(remote).title())
    assert machines(service, box.id) == before
    remote.close()
    assert box.pause()["status"] == "paused"
    assert machines(service, box.id) == {}
    assert box.resume()["status"] in ("ready", "active")
    again = driven(browser, box)
    if isolation == "runsc":
        assert int(front(again).title()) >= counted
    again.close()
    assert box.run("cat /workspace/kept") == "kept\n"
    assert "Chrome/" in box.run(VERSION)


def test_both_are_at_a_checkpoint_in_its_forks_and_gone_back_to(
    browser: Browser, box: Sandbox, service: Service, isolation: str
) -> None:
    remote = driven(browser, box)
    page = front(remote)
    page.set_content(COUNTS)
    box.run("echo before > /workspace/kept")
    remote.contexts[0].add_cookies([COOKIE])
    if isolation == "runc":
        at = machines(service, box.id)["browser"].id
        eventually("Chromium to write the cookie down", lambda: _cookies(service, at) == 1, 90, 1)
    eventually("it to count", lambda: int(page.title()) > 2, 20)
    counted = int(page.title())
    taken = box.post("/checkpoints", memory=True)
    assert (taken["keeps"], taken["lost"] is None) == (("memory", True) if isolation == "runsc" else ("files", False))
    remote.close()
    later = driven(browser, box)
    front(later).goto("about:blank")
    later.contexts[0].clear_cookies()
    later.close()
    box.run("echo after > /workspace/kept")

    def is_as_before(one: Sandbox) -> None:
        assert one.run("cat /workspace/kept") == "before\n"
        there = driven(browser, one)
        assert "Chrome/" in one.run(VERSION)
        if isolation == "runsc":
            assert int(front(there).title()) >= counted
        assert [one["value"] for one in there.contexts[0].cookies("https://example.com")] == ["yes"]
        there.close()

    fork = box.api.ready(fromCheckpoint=taken["id"], capabilities={"browser": PAIRED})
    is_as_before(fork)
    addresses = {one.address for of in (fork, box) for one in machines(service, of.id).values()}
    assert len(addresses) == 4
    box.api.delete(fork.id)
    box.post("/checkpoints/restore", checkpointId=taken["id"])
    box.api.wait_status(box.id, "ready", "active")
    is_as_before(box)
    box.api.call("DELETE", "/checkpoints", params={"checkpointId": taken["id"]})
    snapshots = Path(f"/proc/{service.running['node'].pid}/root{service.root}/run/{service.instance}/pool/snapshots")
    assert snapshots.is_dir()
    eventually("nothing to be left of it", lambda: not list(snapshots.glob(f"{taken['id']}*")), 30, 0.5)


def _cookies(service: Service, machine: str) -> int:
    """How many cookies a browser has written down in its machine under runc, as the host sees that."""
    firsts = [pid for body in bodies(service) if body.machine == machine for pid in body.of("first")]
    profiles = [Path(f"/proc/{pid}/root/home/user/.config/boxkeep-browser") for pid in firsts]
    with contextlib.suppress(StopIteration, sqlite3.OperationalError), tempfile.TemporaryDirectory() as directory:
        found = next(path for profile in profiles for path in profile.rglob("Cookies"))
        with contextlib.closing(sqlite3.connect(shutil.copy(found, directory))) as store:
            return int(store.execute("select count(*) from cookies").fetchone()[0])
    return 0


def test_its_recordings_are_artifacts_and_its_end_is_that_of_both(box: Sandbox, service: Service) -> None:
    def recorded() -> list[str]:
        items = box.api.call("GET", "/artifacts", params={"id": box.id})["items"]
        return [one["key"] for one in items if one["key"].startswith("recordings/")]

    eventually("a recording", recorded, READY_S, 0.5)
    box.api.delete(box.id)
    eventually("its end", lambda: box.api.get(box.id)["status"] == "ended", 60, 0.2)
    assert machines(service, box.id) == {}
    service.wait_clean()
