"""Pause and resume by HTTP: memory under gVisor, files under runc, by hand, by themselves, and after every kill."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.clients import Api, Sandbox, eventually, fresh
from tests.services import Service
from tests.system.outside import outside

RUNNING = ("ready", "active")
COUNTER = "i=0; while :; do i=$((i+1)); echo $i > /tmp/new; mv /tmp/new /workspace/count; sleep 0.05; done"
SERVER = """
import http.server, itertools
numbers = itertools.count(1)
class Count(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(str(next(numbers)).encode())
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Count).serve_forever()
"""

CONNECTED = """
import asyncio, errno, json, os, selectors, sys, time

class Counting(selectors.EpollSelector):
    wakes = 0
    def select(self, timeout=None):
        Counting.wakes += 1
        return super().select(timeout)

said = {"pings": 0, "ends": []}

async def hold(host):
    try:
        reader, writer = await asyncio.open_connection(host, 80)
        said["ends"].append("EOF" if not await reader.read(1) else "data")
        writer.close()
    except OSError as error:
        said["ends"].append(errno.errorcode[error.errno])

async def echo(reader, writer):
    while got := await reader.read(1):
        writer.write(got)

async def main():
    await asyncio.start_server(echo, "127.0.0.1", 9000)
    reader, writer = await asyncio.open_connection("127.0.0.1", 9000)
    holding = [asyncio.ensure_future(hold(host)) for host in sys.argv[1:]]
    while True:
        writer.write(b"x")
        await reader.readexactly(1)
        said.update(pings=said["pings"] + 1, wakes=Counting.wakes, cpu=time.process_time(), wall=time.monotonic())
        with open("/workspace/said.new", "w") as file:
            json.dump(said, file)
        os.rename("/workspace/said.new", "/workspace/said")
        await asyncio.sleep(0.5)

asyncio.SelectorEventLoop(Counting()).run_until_complete(main())
"""


def counted(box: Sandbox) -> int:
    return int(box.run("cat /workspace/count || echo 0"))


def test_memory_goes_on_under_gvisor_with_its_listeners_commands_and_packages(api: Api) -> None:
    with fresh(api, runtime="python", isolation="runsc", env={"COLOUR": "green"}) as box:
        box.write("/workspace/server.py", SERVER.encode())
        server = box.background("python3 server.py")
        counter = box.background(COUNTER)
        box.run("echo '#!/bin/sh\necho tool' > /usr/local/bin/tool; chmod +x /usr/local/bin/tool")
        eventually("the server to listen", lambda: box.exec("curl -s localhost:8000")["exitCode"] == 0, 30)
        before, number = counted(box), int(box.run("curl -s localhost:8000"))
        paused = box.pause()
        assert (paused["status"], paused["pauseKeeps"], paused["pauseDurability"]) == ("paused", "memory", "node")
        assert (paused["reason"], paused["expiresAt"], paused["terminalUrl"]) == ("user_request", None, None)
        assert api.ask("POST", "/exec", json={"id": box.id, "command": "true"}).status_code == 409
        resumed = box.resume()
        assert resumed["status"] in RUNNING
        assert (resumed["reason"], resumed["pauseDurability"]) == (None, None)
        assert box.run("echo $COLOUR; tool") == "green\ntool\n"
        assert int(box.run("curl -s localhost:8000")) == number + 1
        assert counted(box) >= before
        assert {box.process(one)["state"] for one in (server, counter)} == {"running"}
        box.post("/processes/signal", processId=server, signal="KILL")
        assert box.wait(server)["outcome"] == "cancelled"
        assert (
            box.run("curl -s -o /dev/null -w '%{http_code}' --max-time 5 http://169.254.169.254/ || echo no") != "200"
        )


def test_names_are_found_after_a_resume(api: Api, isolation: str) -> None:
    with fresh(api, runtime="base", isolation=isolation) as box:
        box.pause()
        box.resume()
        gateway = box.run("ip route show default 2>/dev/null | cut -d' ' -f3 || true").strip()
        named = box.run("cut -d' ' -f2 /etc/resolv.conf | head -1").strip()
        assert named
        assert gateway in ("", named)


def test_files_and_packages_are_kept_under_runc_and_commands_say_that_they_are_lost(api: Api) -> None:
    with fresh(api, runtime="base", isolation="runc") as box, ThreadPoolExecutor() as threads:
        box.run(
            "echo '#!/bin/sh\necho tool' > /usr/local/bin/tool; chmod +x /usr/local/bin/tool; echo a > /workspace/a"
        )
        background = box.background("echo begun; sleep 600")
        waiting = threads.submit(box.exec, "sleep 600")
        eventually("the command to run", lambda: len(box.processes()) == 3, 20)
        paused = box.pause()
        assert (paused["status"], paused["pauseKeeps"]) == ("paused", "files")
        assert waiting.result(timeout=30)["outcome"] == "lost_on_files_pause"
        assert box.process(background)["outcome"] == "lost_on_files_pause"
        assert box.resume()["status"] in RUNNING
        assert box.run("tool; cat /workspace/a") == "tool\na\n"
        assert box.output(background) == b"begun\n"


def test_memory_that_is_kept_can_be_done_without_and_what_ran_says_that_it_is_lost(api: Api) -> None:
    with fresh(api, runtime="base", isolation="runsc") as box:
        box.write("/workspace/own", b"kept")
        command = box.background("echo said; sleep 300")
        eventually("it to say so", lambda: box.output(command) == b"said\n", 20)
        assert box.pause()["pauseKeeps"] == "memory"
        assert box.resume(memory=False)["status"] in RUNNING
        assert box.run("cat /workspace/own; grep -lx sleep /proc/[0-9]*/comm || true") == "kept"
        assert (box.process(command)["outcome"], box.output(command)) == ("lost_on_files_pause", b"said\n")
        assert box.pause()["pauseKeeps"] == "memory", "what runs from files alone is as any other"
        assert box.resume()["status"] in RUNNING


def test_who_waits_for_a_command_when_memory_is_paused_is_told_that_it_goes_on(api: Api) -> None:
    with fresh(api, runtime="base", isolation="runsc") as box, ThreadPoolExecutor() as threads:
        body = {"id": box.id, "command": "sleep 5; echo done"}
        waiting = threads.submit(api.ask, "POST", "/exec", json=body)
        eventually("the command to run", lambda: box.exec("pgrep -f '^sleep 5'")["exitCode"] == 0, 20)
        box.pause()
        refused = waiting.result(timeout=30)
        assert (refused.status_code, refused.json()["code"]) == (409, "SANDBOX_PAUSED")
        box.resume()
        assert box.wait(refused.json()["processId"])["outcome"] == "exited"
        assert box.output(refused.json()["processId"]) == b"done\n"


def test_a_time_limit_is_not_used_up_by_a_pause(api: Api) -> None:
    with fresh(api, runtime="base", isolation="runsc") as box:
        command = box.post("/exec", command="sleep 3; echo done", background=True, timeout=8000)["processId"]
        box.pause()
        time.sleep(7)
        box.resume()
        assert box.wait(command)["outcome"] == "exited"


def test_a_paused_sandbox_survives_the_death_of_every_process_of_ours(service: Service, api: Api) -> None:
    boxes = [api.ready(runtime="base", isolation=isolation) for isolation in ("runc", "runsc")]
    for box in boxes:
        box.write("/workspace/kept", b"kept")
        assert box.pause()["status"] == "paused"
    service.restart("serve", "node")
    for box in boxes:
        assert box.resume()["status"] in RUNNING
        assert box.read("/workspace/kept") == b"kept"
        api.delete(box.id)
    service.wait_clean()


@pytest.mark.parametrize("victim", ["serve", "node"])
def test_a_kill_in_the_middle_of_pause_or_resume_loses_nothing(service: Service, api: Api, victim: str) -> None:
    box = api.ready(runtime="base", isolation="runsc")
    box.background(COUNTER)
    eventually("it to count", lambda: box.exec("test -s /workspace/count")["exitCode"] == 0, 20)
    for delay in (0.0, 0.1, 0.25, 0.5):
        before = counted(box)
        api.call("POST", "/pause", json={"id": box.id})
        time.sleep(delay)
        service.restart(victim)
        assert api.wait_status(box.id, "paused")["pauseKeeps"] == "memory"
        api.call("POST", "/resume", json={"id": box.id})
        time.sleep(delay)
        service.restart(victim)
        api.wait_status(box.id, *RUNNING)
        reached = counted(box)
        assert reached >= before
        eventually("it to count on", lambda at=reached: counted(box) > at, 20)
    api.delete(box.id)
    service.wait_clean()


def test_ending_a_paused_sandbox_leaves_nothing(service: Service, api: Api, isolation: str) -> None:
    box = api.ready(runtime="base", isolation=isolation)
    box.pause()
    assert api.delete(box.id) == {"ok": True}
    assert api.wait_status(box.id, "ended")["reason"] == "user_request"
    service.wait_clean()


def test_a_sandbox_may_pause_at_its_end_and_wake_when_it_is_called(api: Api, isolation: str) -> None:
    lifecycle = {"onExpiry": "pause", "autoResume": True}
    with fresh(api, runtime="base", isolation=isolation, maxDurationMs=3000, lifecycle=lifecycle) as box:
        box.write("/workspace/kept", b"kept")
        assert api.wait_status(box.id, "paused")["reason"] == "max_duration"
        assert box.run("cat /workspace/kept") == "kept"
        assert api.wait_status(box.id, "paused")["reason"] == "max_duration"
        assert box.read("/workspace/kept") == b"kept"


def test_an_idle_sandbox_pauses_by_itself_and_a_command_keeps_it_awake(api: Api) -> None:
    lifecycle = {"idlePauseMs": 2000, "autoResume": True}
    with fresh(api, runtime="base", isolation="runsc", lifecycle=lifecycle) as box:
        assert box.run("sleep 4; echo awake") == "awake\n"
        background = box.background("sleep 5")
        assert box.wait(background)["outcome"] == "exited"
        assert api.get(box.id)["status"] == "ready"
        assert api.wait_status(box.id, "paused")["reason"] == "idle"
        assert box.run("echo again") == "again\n"


def test_what_is_open_to_the_outside_is_reset_and_nobody_is_woken_for_it_after_a_resume(
    service: Service, api: Api, tmp_path: Path
) -> None:
    with outside(service, tmp_path) as peer, fresh(api, runtime="python", isolation="runsc") as box:

        def said() -> dict[str, Any]:
            return dict(json.loads(box.read("/workspace/said")))

        box.write("/workspace/connected.py", CONNECTED.encode())
        box.background(f"python3 connected.py {' '.join([peer.address] * 3)} {peer.silent}")
        eventually("it to be connected", lambda: peer.open == 3, 30)
        eventually("it to speak within", lambda: box.exec("test -s /workspace/said")["exitCode"] == 0, 30)
        before = said()
        assert before["ends"] == []
        assert box.pause()["pauseKeeps"] == "memory"
        eventually("the peer to see the end", lambda: peer.ends == ["ConnectionResetError"] * 3, 10)
        box.resume()
        first = eventually("it to go on", lambda: one if (one := said())["pings"] > before["pings"] + 1 else None, 30)
        assert sorted(first["ends"]) == ["ECONNREFUSED", *["ECONNRESET"] * 3]
        last = eventually("two seconds", lambda: one if (one := said())["wall"] > first["wall"] + 2 else None, 30)
        assert last["cpu"] - first["cpu"] < 0.2 * (last["wall"] - first["wall"])
        assert last["wakes"] - first["wakes"] < 10 * (last["pings"] - first["pings"])
        box.run(f"curl -s --max-time 1 http://{peer.address}/ || true")
        assert peer.open == 4


HOLDS_A_DELETED_FILE = """
import os, time
held = open("/workspace/held", "w+")
held.write("kept by its descriptor alone")
held.flush()
os.unlink("/workspace/held")
for count in range(10 ** 9):
    with open("/workspace/new", "w") as file:
        file.write(str(count))
    os.rename("/workspace/new", "/workspace/count")
    time.sleep(0.05)
"""


IS_TAKEN_BY_NOBODY = """
import contextlib, os, socket, time
waited_for = socket.create_server(("127.0.0.1", 0), backlog=0)
waiting = [socket.socket() for _ in range(8)]
for one in waiting:
    one.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        one.connect(waited_for.getsockname())
number = 0
while True:
    number += 1
    with open("/workspace/new", "w") as file:
        file.write(str(number))
    os.rename("/workspace/new", "/workspace/count")
    time.sleep(0.05)
"""


@pytest.mark.parametrize("program", [HOLDS_A_DELETED_FILE, IS_TAKEN_BY_NOBODY], ids=["deleted file", "not accepted"])
def test_what_gvisor_cannot_go_on_from_runs_on_unharmed_and_at_its_end_keeps_its_files(api: Api, program: str) -> None:
    wish = {"ephemeral": False, "lifecycle": {"onExpiry": "pause"}}
    with fresh(api, runtime="python", isolation="runsc", **wish) as box:
        box.write("/workspace/holds.py", program.encode())
        command = box.background("exec python3 holds.py")
        eventually("it to count", lambda: counted(box) > 3, 30)
        assert api.ask("POST", "/checkpoints", json={"id": box.id, "memory": True}).status_code == 503
        after = box.pause()
        assert (after["status"], after["reason"]) == ("active", "pause_failed")
        reached = counted(box)
        eventually("it to go on counting", lambda: counted(box) > reached + 3, 30)
        assert box.process(command)["state"] == "running"

        box.write("/workspace/work", b"a day of it")
        api.call("PATCH", "", json={"id": box.id, "maxDurationMs": 2000})
        paused = api.wait_status(box.id, "paused")
        assert (paused["pauseKeeps"], paused["reason"]) == ("files", "memory_lost")
        assert box.process(command)["outcome"] == "lost_on_files_pause"
        box.resume()
        assert box.read("/workspace/work") == b"a day of it"
