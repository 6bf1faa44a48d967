"""What a tenant does to its own disk, records and kernel in order to reach what is not its own."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.clients import Api, Sandbox, eventually, fresh
from tests.services import Service

MACHINE_BYTES = 1 << 30


@pytest.fixture(scope="module")
def box(api: Api, isolation: str) -> Iterator[Sandbox]:
    made = api.ready(runtime="python", isolation=isolation)
    yield made
    api.delete(made.id)


def test_what_lies_in_sockets_is_bounded_as_memory_is(api: Api, isolation: str) -> None:
    script = """
import resource, socket, time
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
server, kept = socket.create_server(("127.0.0.1", 9000), backlog=1024), []
for _ in range(600):
    peer = socket.create_connection(("127.0.0.1", 9000))
    peer.setblocking(False)
    kept += [peer, server.accept()[0]]
    try:
        while True:
            peer.send(bytes(1 << 20))
    except BlockingIOError:
        pass
print("full", flush=True)
time.sleep(600)
"""
    with fresh(api, runtime="python", isolation=isolation) as box:
        box.write("/workspace/sockets.py", script.encode())
        process = box.background("exec python3 sockets.py")
        eventually("it to be full or over", lambda: said(box, process) == b"full\n" or _over(box, process), 60, 0.5)
        assert tcp_bytes() < MACHINE_BYTES * 3 // 2
        if not _over(box, process):
            box.post("/processes/signal", processId=process, signal="KILL")
            box.wait(process)
        # gVisor keeps them in its own memory, which the guest inside does not see: they may end the sandbox.
        seen = api.get(box.id)
        assert seen["status"] in ("ready", "active") or (isolation, seen["reason"]) == ("runsc", "out_of_memory"), seen


def tcp_bytes() -> int:
    """What the host's kernel holds in TCP sockets, of all networks together."""
    (line,) = [line for line in Path("/proc/net/sockstat").read_text().splitlines() if line.startswith("TCP:")]
    words = line.split()
    return int(words[words.index("mem") + 1]) * 4096


def said(box: Sandbox, process: str) -> bytes:
    """What a command has written, as far as it can be read."""
    params = {"id": box.id, "processId": process, "stream": "stdout"}
    response = box.api.ask("GET", "/processes/output", params=params)
    return response.content if response.status_code == 200 else b""


def _over(box: Sandbox, process: str) -> bool:
    return box.process(process)["outcome"] is not None


@pytest.mark.parametrize("trick", ["mkfifo", "mkdir", "truncate -s 1P", "ln -s /dev/zero"])
def test_something_else_in_place_of_an_output_holds_nobody_up(service: Service, box: Sandbox, trick: str) -> None:
    process = box.background("echo mine; exec sleep 600")
    eventually("its output", lambda: box.output(process) == b"mine\n", 10)
    line = f"cd /.boxkeep/log/{process} && for f in stdout record.json record.new; do rm -f $f; {trick} $f; done"
    box.exec(line)
    response = box.api.ask("GET", "/processes/output", params={"id": box.id, "processId": process, "stream": "stdout"})
    assert response.status_code in (200, 404, 502), response.text
    assert len(response.content) <= 5
    box.post("/processes/signal", processId=process, signal="KILL")
    assert box.wait(process)["outcome"] == "cancelled"
    assert httpx.get(f"{service.url}/readyz").status_code == 200


def test_a_file_larger_than_any_disk_is_told_and_not_read(box: Sandbox) -> None:
    assert box.exec("truncate -s 1P sparse")["exitCode"] == 0
    response = box.api.ask("GET", "/fs/read", params={"id": box.id, "path": "/workspace/sparse"})
    assert response.status_code == 413, response.text
    part = box.download("/workspace/sparse", Range="bytes=1000000000000-1000000000009")
    assert (part.status_code, part.content) == (206, bytes(10))
    box.run("rm sparse")


def test_a_million_attributes_and_links_fill_no_more_than_its_own_disk(service: Service, box: Sandbox) -> None:
    script = """
import os
for number in range(400):
    name = f"/workspace/x{number}"
    open(name, "w").close()
    try:
        for key in range(60):
            os.setxattr(name, f"user.{key}", bytes(1000))
    except OSError:
        pass
for number in range(20_000):
    os.link("/workspace/x0", f"/workspace/l{number}")
"""
    box.write("/workspace/many.py", script.encode())
    box.exec("python3 many.py", timeout=60_000)
    assert httpx.get(f"{service.url}/readyz").status_code == 200
    assert box.run("rm -rf x* l*; echo well", timeout=60_000) == "well\n"


def test_a_set_user_id_file_of_a_sandbox_is_worth_nothing_on_the_host(service: Service, box: Sandbox) -> None:
    box.run("cp /bin/sh /workspace/shell && chown root /workspace/shell && chmod 6755 /workspace/shell")
    table = Path(f"/proc/{service.running['node'].pid}/mountinfo").read_text().splitlines()
    pools = [line for line in table if str(service.root) in line and " - btrfs " in line]
    assert pools
    assert all({"nosuid", "nodev"} <= set(line.split()[5].split(",")) for line in pools)
    (pool,) = [path for path in service.root.rglob("pool") if path.is_dir() and path.parent.parent.name == "run"]
    assert pool.stat().st_mode & 0o077 == 0
