"""What a client does on a fresh host, by the standard library: job.py begin|goes-on|goes-out|pause|after-reboot."""

import json
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
PATIENCE_S = 300.0


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


def created(isolation: str) -> str:
    """A ready sandbox."""
    wish = {"runtime": "python", "isolation": isolation, "ephemeral": False}
    sandbox = str(call("POST", "/v1/sandboxes", wish)["id"])
    until(f"{sandbox} to be ready", lambda: seen(sandbox)["status"] in ("ready", "active"))
    return sandbox


def run(sandbox: str, command: str, **more: Any) -> str:
    """What a command prints; it has to succeed."""
    answer = call("POST", "/v1/sandboxes/exec", {"id": sandbox, "command": command, **more})
    assert answer.get("exitCode", 0) == 0, answer
    return str(answer.get("stdout", answer.get("processId")))


def begin() -> None:
    """Under each isolation: code, files, a package from the mirror, and something that goes on counting."""
    made: dict[str, str] = {}
    for isolation in ("runc", "runsc"):
        sandbox = made[isolation] = created(isolation)
        code = call("POST", "/v1/sandboxes/code", {"id": sandbox, "code": "print(6 * 7)"})
        assert code["stdout"] == "42\n", code
        run(sandbox, "echo kept > /root/file && sync")
        run(sandbox, "while sleep 0.5; do date +%s > /root/now; done", background=True)
    STATE.write_text(json.dumps(made))
    goes_out()


def goes_on() -> None:
    """What was begun still counts."""
    for sandbox in json.loads(STATE.read_text()).values():
        until("the API", lambda s=sandbox: bool(seen(s)))
        assert seen(sandbox)["status"] in ("ready", "active"), seen(sandbox)
        before = run(sandbox, "cat /root/now")
        until("the count to go on", lambda s=sandbox, b=before: run(s, "cat /root/now") != b)


def goes_out() -> None:
    """Names are resolved, and the host's mirror answers, through whatever firewall the host has."""
    for isolation in ("runc", "runsc"):
        sandbox = created(isolation)
        until("egress", lambda s=sandbox: "Fetched" in run(s, "apt-get update 2>&1 || true", timeout=200_000))
        assert "127." not in run(sandbox, "cat /etc/resolv.conf")
        call("DELETE", f"/v1/sandboxes?id={sandbox}")


def pause() -> None:
    """The one under gVisor is paused with its memory."""
    sandbox = json.loads(STATE.read_text())["runsc"]
    call("POST", "/v1/sandboxes/pause", {"id": sandbox})
    until("the pause", lambda: seen(sandbox)["status"] == "paused")


def after_reboot() -> None:
    """What ran is failed and says why, its files are kept; what was paused resumes."""
    made = json.loads(STATE.read_text())
    until("the API after the boot", lambda: bool(seen(made["runc"])))
    until("the dead to be told", lambda: seen(made["runc"])["status"] == "failed")
    assert seen(made["runc"])["reason"] == "node_restarted", seen(made["runc"])
    assert call("GET", f"/v1/sandboxes/checkpoints?id={made['runc']}")["items"], "its files are not kept"
    call("POST", "/v1/sandboxes/resume", {"id": made["runsc"]})
    until("the resume", lambda: seen(made["runsc"])["status"] in ("ready", "active"))
    assert run(made["runsc"], "cat /root/file") == "kept\n"
    before = run(made["runsc"], "cat /root/now")
    until("the count to go on", lambda: run(made["runsc"], "cat /root/now") != before)


if __name__ == "__main__":
    {"begin": begin, "goes-on": goes_on, "goes-out": goes_out, "pause": pause, "after-reboot": after_reboot}[
        sys.argv[1]
    ]()
