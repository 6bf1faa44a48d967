"""Hogs of every kind: a clear answer to their client, and neighbour and node as healthy as before."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.chaos.bodies import body_of
from tests.clients import Api, Sandbox, eventually, fresh
from tests.services import Service

OUTCOMES = {"exited", "signalled", "timed_out", "out_of_memory", "sandbox_ended"}


@pytest.fixture(scope="module")
def neighbour(api: Api) -> Iterator[Sandbox]:
    made = api.ready(runtime="base", isolation="runc", name="neighbour")
    yield made
    api.delete(made.id)


@pytest.fixture
def hog(api: Api, isolation: str) -> Iterator[Sandbox]:
    made = api.ready(runtime="python", isolation=isolation)
    yield made
    api.delete(made.id)


def attack(hog: Sandbox, line: str, timeout: int) -> dict[str, object]:
    """The answer to the attacker, which must be a record or one of the sentences for a sandbox that is gone."""
    response = hog.api.ask("POST", "/exec", json={"id": hog.id, "command": line, "timeout": timeout})
    assert response.status_code in (200, 409, 502, 503, 504), response.text
    body: dict[str, object] = response.json()
    if response.status_code == 200:
        assert body["outcome"] in OUTCOMES
    else:
        assert body["error"]
    return body


def healthy(service: Service, neighbour: Sandbox) -> None:
    """Neighbour and node answer."""
    assert httpx.get(f"{service.url}/readyz").status_code == 200
    assert neighbour.run("echo fine; dd if=/dev/urandom of=/workspace/w bs=1M count=8 2>/dev/null; rm w") == "fine\n"


def usable_or_over(hog: Sandbox, within_s: float = 150) -> str:
    """Whether the attacker's sandbox still works, or else why it is over; it may not be something between."""

    def look() -> str | None:
        seen = hog.api.get(hog.id)
        if seen["status"] in ("failed", "ended", "ending"):
            return str(seen["reason"])
        response = hog.api.ask("POST", "/exec", json={"id": hog.id, "command": "echo ok", "timeout": 10_000})
        return "usable" if response.status_code == 200 and response.json()["stdout"] == "ok\n" else None

    return eventually("the attacker's sandbox to be usable or over", look, within_s, 0.5)


def test_a_fork_bomb(service: Service, hog: Sandbox, neighbour: Sandbox, isolation: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(attack, hog, "bomb() { bomb | bomb & }; bomb; sleep 30", 5_000)
        for _ in range(5):
            healthy(service, neighbour)
        if isolation == "runc":
            told = answer.result()
            assert told["outcome"] == "timed_out", told
            assert usable_or_over(hog, 15) == "usable"
        else:
            # gVisor shares its processors among all that the bomb has become: it may stand still for minutes.
            eventually("the bomb to have grown", lambda: len(body_of(service, hog.id).processes) > 100, 60)
            hog.api.delete(hog.id)
            eventually("the bomb to be over", lambda: hog.api.get(hog.id)["status"] == "ended", 60)
    healthy(service, neighbour)


def test_a_memory_hog(service: Service, hog: Sandbox, neighbour: Sandbox) -> None:
    line = "python3 -c 'x = []\nwhile True: x.append(b\"x\" * 10_000_000)'"
    answer = attack(hog, line, 60_000)
    healthy(service, neighbour)
    assert answer["outcome"] == "out_of_memory", f"{answer['outcome']} {answer['exitCode']}: {answer['stderr']}"
    assert usable_or_over(hog) in ("usable", "out_of_memory")


def test_a_hog_of_shared_memory_and_tmp(service: Service, hog: Sandbox, neighbour: Sandbox) -> None:
    line = "cat /dev/zero > /dev/shm/a; for n in 1 2 3 4 5 6; do head -c 400M /dev/zero > /tmp/$n; done; echo end"
    attack(hog, line, 60_000)
    healthy(service, neighbour)
    assert usable_or_over(hog) in ("usable", "out_of_memory")


def test_a_full_disk_says_so_and_can_be_emptied(service: Service, hog: Sandbox, neighbour: Sandbox) -> None:
    line = "head -c 64M /dev/urandom > block; for n in $(seq 200); do cat block >> full || exit 7; done"
    answer = attack(hog, line, 120_000)
    assert (answer["outcome"], answer["exitCode"]) == ("exited", 7), answer
    assert "No space left" in str(answer["stderr"]) or "quota" in str(answer["stderr"])
    healthy(service, neighbour)
    refused = hog.api.ask(
        "PUT", "/fs/upload", params={"id": hog.id, "path": "/workspace/more"}, content=b"x" * 9_000_000
    )
    assert refused.status_code in (507, 200), refused.text
    assert hog.run("rm -f full block; echo x > small; cat small") == "x\n"


def test_ten_thousand_connections(service: Service, hog: Sandbox, neighbour: Sandbox) -> None:
    script = """
import resource, socket
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
listener = socket.create_server(("127.0.0.1", 9000), backlog=4096)
kept, failed = [], 0
for number in range(10_000):
    peer = socket.socket()
    peer.setblocking(False)
    try:
        peer.connect_ex(("1.1.1.1" if number % 2 else "127.0.0.1", 443 if number % 2 else 9000))
        kept.append(peer)
    except OSError:
        failed += 1
print("tried", len(kept) + failed)
"""
    hog.write("/workspace/flood.py", script.encode())
    answer = attack(hog, "python3 flood.py", 90_000)
    assert answer["outcome"] == "exited", answer
    healthy(service, neighbour)
    assert usable_or_over(hog) == "usable"


def test_connections_to_ones_own_guest(service: Service, hog: Sandbox, neighbour: Sandbox) -> None:
    script = """
import socket, subprocess, time
address = subprocess.check_output(["hostname", "-I"], text=True).split()[0]
kept = []
for number in range(1500):
    try:
        kept.append(socket.create_connection((address, 7071), 1))
        kept[-1].sendall(b"\\xff" * 64)
    except OSError:
        pass
print(len(kept), flush=True)
time.sleep(8)
"""
    hog.write("/workspace/own.py", script.encode())
    attack_id = hog.background("python3 own.py")
    healthy(service, neighbour)
    assert usable_or_over(hog) == "usable"
    hog.wait(attack_id)
    assert usable_or_over(hog) == "usable"


def test_a_million_files_and_a_deep_tree_do_not_hurt_the_services(service: Service, hog: Sandbox) -> None:
    line = "mkdir m && cd m && for n in $(seq 300); do mkdir d && cd d || break; done; echo deep"
    hog.exec(line)
    response = hog.api.ask("POST", "/fs/remove", json={"id": hog.id, "path": "/workspace/m", "recursive": True})
    assert response.status_code == 200, response.text
    assert httpx.get(f"{service.url}/readyz").status_code == 200


def test_endless_output_is_bounded_and_says_what_was_dropped(service: Service, api: Api) -> None:
    with fresh(api, runtime="base", isolation="runc") as box:
        answer = box.exec("yes", timeout=4_000)
        assert answer["outcome"] == "timed_out"
        assert answer["truncated"] is True
        assert len(answer["stdout"]) <= 1 << 20
        assert box.run("echo fine") == "fine\n"
