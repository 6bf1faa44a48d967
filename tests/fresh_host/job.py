"""What a client does on a fresh host, by the standard library, step by step: job.py STEP."""

import json
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

URL = "http://127.0.0.1:7070"
KEY = Path("/var/lib/boxkeep/main/key")
STATE = Path("/root/fresh/sandboxes.json")
CGROUPS = Path("/sys/fs/cgroup/boxkeep-main")
# As tests/fresh_host/main.toml has them; gVisor's own threads count too, so that it has more of them.
LIMITS = {
    "memory.max": {"536870912"},
    "memory.swap.max": {"0"},
    "cpu.max": {"50000 100000"},
    "pids.max": {"300", "4096"},
}
ISOLATIONS = ("runc", "runsc")
SLOTS = 3
PATIENCE_S = 300.0
LIVES = ("ready", "active")

HOG = """python3 -c '
import time
kept = []
while True:
    kept.append(bytearray(20 << 20))
    time.sleep(0.1)
'"""
SPIN = "for i in 1 2; do timeout 3 sh -c 'while :; do :; done' & done; wait; true"
CROWD = """python3 -c '
import os, time
try:
    while True:
        if os.fork() == 0:
            time.sleep(5)
            os._exit(0)
except BlockingIOError:
    print("full")
'"""
COUNT = "while sleep 0.5; do date +%s > /root/now; done"


def call(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The answer to a call; one that fails ends the program."""
    headers = {"Authorization": f"Bearer {KEY.read_text().strip()}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{URL}{path}", data, headers, method=method)
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
        answer: dict[str, Any] = json.loads(response.read())
        return answer


def until(what: str, look: Callable[[], bool]) -> None:
    """Wait for a condition; a service that is being started may be away or say so meanwhile."""
    deadline = time.monotonic() + PATIENCE_S
    last = ""
    while time.monotonic() < deadline:
        try:
            if look():
                return
        except urllib.error.HTTPError as error:
            last = f"{error}: {error.read(1000).decode()}"
            if error.code not in (409, 502, 503, 504):
                raise SystemExit(last) from error
        except OSError as error:
            last = str(error)
        time.sleep(0.5)
    raise SystemExit(f"in vain: {what} {last}")


def seen(sandbox: str) -> dict[str, Any]:
    """A sandbox as the API shows it."""
    return call("GET", f"/v1/sandboxes?id={sandbox}")


def lives(sandbox: str) -> bool:
    """Whether commands can be run in it."""
    return seen(sandbox)["status"] in LIVES


def wished(isolation: str, *, ephemeral: bool = True) -> str:
    """A sandbox that is on its way."""
    return str(
        call("POST", "/v1/sandboxes", {"runtime": "python", "isolation": isolation, "ephemeral": ephemeral})["id"]
    )


def created(isolation: str, *, ephemeral: bool = True) -> str:
    """A ready sandbox."""
    sandbox = wished(isolation, ephemeral=ephemeral)
    until(f"{sandbox} to be ready", lambda: lives(sandbox))
    return sandbox


def deleted(sandbox: str) -> None:
    """Nothing of it is left among the cgroups once it is gone."""
    before = set(machines())
    call("DELETE", f"/v1/sandboxes?id={sandbox}")
    until("the cgroup to go", lambda: set(machines()) < before)


def ended(sandbox: str, command: str) -> dict[str, Any]:
    """A command that has come to its end, whichever."""
    return call("POST", "/v1/sandboxes/exec", {"id": sandbox, "command": command, "timeout": 120_000})


def run(sandbox: str, command: str) -> str:
    """What a command prints; it has to succeed."""
    answer = ended(sandbox, command)
    assert answer["exitCode"] == 0, answer
    return str(answer["stdout"])


def why_not(path: str, body: dict[str, Any]) -> str:
    """The sentence by which a call is refused for want of room; empty if it is not."""
    try:
        call("POST", path, body)
    except urllib.error.HTTPError as refused:
        if refused.code not in (503, 507):
            raise
        return str(json.loads(refused.read(1000))["error"])
    return ""


def counts(sandbox: str) -> None:
    """What runs there goes on."""
    before = run(sandbox, "cat /root/now")
    until("the count to go on", lambda: run(sandbox, "cat /root/now") != before)


def mirror() -> str:
    """The first address that apt fetches on this host."""
    listed = subprocess.run(["apt-get", "--print-uris", "update"], check=True, capture_output=True, text=True).stdout
    return listed.split("'")[1]


def begun() -> dict[str, str]:
    """The sandboxes of `begin`, by isolation."""
    made: dict[str, str] = json.loads(STATE.read_text())
    return made


def machines() -> list[Path]:
    """The cgroups of machines."""
    return [one for one in CGROUPS.iterdir() if one.is_dir()]


def bounded() -> None:
    """Every machine's processes are in its cgroup, which has its limits."""
    until("others to be gone", lambda: len(machines()) == len(ISOLATIONS))
    for cgroup in machines():
        assert (cgroup / "cgroup.procs").read_text().split(), f"nothing runs in {cgroup}"
        for file, values in LIMITS.items():
            assert (cgroup / file).read_text().strip() in values, f"{cgroup / file}: {(cgroup / file).read_text()}"


def begin() -> None:
    """Under each isolation: code, a file, and something that goes on counting."""
    made: dict[str, str] = {}
    for isolation in ISOLATIONS:
        sandbox = made[isolation] = created(isolation, ephemeral=False)
        code = call("POST", "/v1/sandboxes/code", {"id": sandbox, "code": "print(6 * 7)"})
        assert code["stdout"] == "42\n", code
        run(sandbox, "echo kept > /root/file && sync")
        call("POST", "/v1/sandboxes/exec", {"id": sandbox, "command": COUNT, "background": True})
    STATE.write_text(json.dumps(made))


def limits() -> None:
    """Who passes a limit is told, and the sandbox goes on."""
    bounded()
    for sandbox in begun().values():
        assert (hog := ended(sandbox, HOG))["outcome"] == "out_of_memory", hog
        run(sandbox, SPIN)
        counts(sandbox)
    assert run(begun()["runc"], CROWD) == "full\n"
    held = [int((cgroup / "cpu.stat").read_text().split("nr_throttled ")[1].split()[0]) for cgroup in machines()]
    assert all(held), f"processors are not limited: {held}"


def checkpoint() -> None:
    """Files of what runs are kept, for which it stands still a moment, and memory where that can be."""
    for isolation, sandbox in begun().items():
        made = call("POST", "/v1/sandboxes/checkpoints", {"id": sandbox, "memory": isolation == "runsc"})
        assert made["keeps"] == ("memory" if isolation == "runsc" else "files"), made
        counts(sandbox)


def goes_on() -> None:
    """What was begun still counts, within its limits."""
    for sandbox in begun().values():
        until("the API", lambda s=sandbox: bool(seen(s)))
        assert lives(sandbox), seen(sandbox)
        counts(sandbox)
    bounded()


def goes_out() -> None:
    """Names are resolved, and the host's mirror answers, through whatever firewall the host has."""
    asked = f"curl -fsS -m 20 -o /dev/null {shlex.quote(mirror())}"
    for isolation in ISOLATIONS:
        sandbox = begun()[isolation]
        if lives(sandbox):
            until("egress", lambda s=sandbox: ended(s, asked)["exitCode"] == 0)
            assert "127." not in run(sandbox, "cat /etc/resolv.conf")


def delete() -> None:
    """Nothing is left of what is deleted, and nothing of it is in the way of what is made next."""
    for isolation in ISOLATIONS:
        deleted(created(isolation))


def full() -> None:
    """What runs goes on, and who asks for more than there is room for hears why."""
    for sandbox in begun().values():
        counts(sandbox)
        run(sandbox, "echo more > /root/more && sync")
    print("a checkpoint:", why_not("/v1/sandboxes/checkpoints", {"id": begun()["runc"]}) or "taken")
    for sandbox in begun().values():
        counts(sandbox)


def pause() -> None:
    """The one under gVisor is paused with its memory; others take all the room there is, and one waits for it."""
    paused = begun()["runsc"]
    call("POST", "/v1/sandboxes/pause", {"id": paused})
    until("the pause", lambda: seen(paused)["status"] == "paused")
    more = [created("runc") for _ in range(SLOTS - 1)]
    waits = wished("runc")
    until("it to wait for room", lambda: len(machines()) == SLOTS and seen(waits)["status"] == "queued")
    STATE.write_text(json.dumps({**begun(), "waits": waits, "more": more[0]}))


def after_reboot() -> None:
    """What ran is failed and says why, its files are kept; what waited has its room; what was paused resumes."""
    made = begun()
    until("the API after the boot", lambda: bool(seen(made["runc"])))
    for one in (made["runc"], made["more"]):
        until("the dead to be told", lambda s=one: seen(s)["status"] == "failed")
        assert seen(one)["reason"] == "node_restarted", seen(one)
    assert call("GET", f"/v1/sandboxes/checkpoints?id={made['runc']}")["items"], "its files are not kept"
    until("what waited to be ready", lambda: lives(made["waits"]))
    call("POST", "/v1/sandboxes/resume", {"id": made["runsc"]})
    until("the resume", lambda: lives(made["runsc"]))
    assert run(made["runsc"], "cat /root/file") == "kept\n"
    counts(made["runsc"])


STEPS = {
    "begin": begin,
    "limits": limits,
    "checkpoint": checkpoint,
    "goes-on": goes_on,
    "goes-out": goes_out,
    "full": full,
    "delete": delete,
    "pause": pause,
    "after-reboot": after_reboot,
}

if __name__ == "__main__":
    try:
        STEPS[sys.argv[1]]()
    except urllib.error.HTTPError as refused:
        raise SystemExit(f"{refused.url}: {refused} {refused.read(1000).decode()}") from refused
