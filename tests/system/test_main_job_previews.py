"""Previews by HTTP and WebSocket, under both isolations, of real servers inside."""

import hashlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.clients import Api, Sandbox, eventually, fresh
from tests.guests import resident
from tests.services import Service

MIB = 1 << 20
BUN = """
const served = Bun.serve({
  port: 3000, hostname: HOST, idleTimeout: 0, maxRequestBodySize: 2 ** 33,
  async fetch(request, server) {
    const url = new URL(request.url);
    if (url.pathname === "/ws") return server.upgrade(request) ? undefined : new Response("no", { status: 400 });
    if (url.pathname === "/events") {
      let n = 0;
      return new Response(new ReadableStream({
        type: "direct",
        async pull(out) {
          while (true) { await out.write(`data: ${n++}\\n\\n`); await out.flush(); await Bun.sleep(100); }
        },
      }), { headers: { "content-type": "text/event-stream" } });
    }
    if (url.pathname === "/count") {
      let total = 0; const hash = new Bun.CryptoHasher("sha256");
      for await (const piece of request.body) { total += piece.length; hash.update(piece); }
      return new Response(`${total} ${hash.digest("hex")}`);
    }
    if (url.pathname === "/big") return new Response(Bun.file("/workspace/big"));
    return Response.json({ url: request.url, headers: [...request.headers] });
  },
  websocket: { message(socket, message) { socket.send(message); }, perMessageDeflate: true },
});
"""
PYTHON = """
import http.server, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        for number in range(1000):
            self.wfile.write(b"%d\\n" % number)
            time.sleep(1)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("", 3000), Handler).serve_forever()
"""


class Preview:
    """A port of a sandbox, as a program sees it that has the token."""

    def __init__(self, service: Service, box: Sandbox, port: int) -> None:
        (self.shown,) = box.api.call("GET", "/ports", params={"id": box.id, "port": port})["ports"]
        self.host = self.shown["url"].removeprefix("http://")
        self.token = self.shown["token"]
        self.port = service.preview_port
        self.base = f"http://127.0.0.1:{self.port}"

    def get(self, path: str = "/", **headers: str) -> httpx.Response:
        """The answer to a request with the token."""
        sent = {"Host": self.host, "X-Boxkeep-Token": self.token, **headers}
        return httpx.get(self.base + path, headers=sent, timeout=60)

    def connected(self, path: str) -> ClientConnection:
        """A WebSocket with the token in its URL."""
        made = socket.create_connection(("127.0.0.1", self.port))
        return connect(f"ws://{self.host}{path}?boxkeep_token={self.token}", sock=made, max_size=None)


def serve(box: Sandbox, host: str = "0.0.0.0") -> None:
    """Start the server of these tests, and wait until it listens."""
    box.write("/workspace/server.ts", BUN.replace("HOST", repr(host)).encode())
    box.background("bun server.ts")
    eventually("it to listen", lambda: 3000 in ports(box), 60)


def ports(box: Sandbox) -> dict[int, dict[str, Any]]:
    """What listens, by port."""
    return {one["port"]: one for one in box.api.call("GET", "/ports", params={"id": box.id})["ports"]}


@pytest.fixture(scope="module")
def box(api: Api, isolation: str) -> Iterator[Sandbox]:
    """A sandbox with the server running."""
    with fresh(api, runtime="bun", isolation=isolation) as made:
        serve(made)
        yield made


def test_what_listens_is_listed_with_its_process_and_opens_by_its_signed_url(service: Service, box: Sandbox) -> None:
    shown = ports(box)[3000]
    assert (shown["listening"], shown["addresses"], shown["process"], shown["public"]) == (
        True,
        ["0.0.0.0"],
        "bun",
        False,
    )
    assert box.api.get(box.id)["previewBaseUrl"].replace("{port}", "3000") == shown["url"]
    with httpx.Client(base_url=f"http://127.0.0.1:{service.preview_port}") as browser:
        browser.headers["host"] = shown["url"].removeprefix("http://")
        assert browser.get("/").status_code == 401
        target = shown["signedUrl"].removeprefix(shown["url"])
        got = browser.get(target, headers={"Accept": "text/html"})
        assert (got.status_code, got.headers["location"]) == (302, shown["url"] + "/")
        cookie = got.headers["set-cookie"].partition(";")[0]
        said = browser.get("/x?y=1", headers={"Cookie": f"{cookie}; a=1"}).json()
    assert said["url"] == f"{shown['url']}/x?y=1"
    assert dict(said["headers"])["cookie"] == "a=1"
    assert shown["token"] not in str(said)
    assert cookie not in str(said)


def test_a_server_on_the_sandboxs_own_address_alone_is_reached(service: Service, api: Api, isolation: str) -> None:
    with fresh(api, runtime="python", isolation=isolation) as other:
        other.background("python3 -m http.server --bind $(hostname -I | cut -d' ' -f1) 8000")
        eventually("it to listen", lambda: 8000 in ports(other), 60)
        assert "Directory listing" in Preview(service, other, 8000).get().text


def test_a_websocket_carries_text_and_large_messages(service: Service, box: Sandbox) -> None:
    with Preview(service, box, 3000).connected("/ws") as ws:
        for message in ("text", b"bytes", os.urandom(3 * MIB), "x" * MIB):
            ws.send(message)
            assert ws.recv(30) == message


def test_events_arrive_as_they_happen(service: Service, box: Sandbox) -> None:
    preview = Preview(service, box, 3000)
    sent = {"Host": preview.host, "X-Boxkeep-Token": preview.token}
    with httpx.stream("GET", f"{preview.base}/events", headers=sent, timeout=10) as got:
        lines = got.iter_lines()
        assert [next(lines) for _ in range(5)] == ["data: 0", "", "data: 1", "", "data: 2"]
        eventually("it to be active", lambda: box.api.get(box.id)["status"] == "active", 5)


def test_a_gigabyte_passes_both_ways_at_constant_memory(service: Service, box: Sandbox) -> None:
    box.run("truncate -s 1G /workspace/big")
    preview, gateway = Preview(service, box, 3000), gateway_of(service)
    sent = {"Host": preview.host, "X-Boxkeep-Token": preview.token}
    preview.get("/")
    before, most, got = resident(gateway), 0, 0
    with httpx.stream("GET", f"{preview.base}/big", headers=sent, timeout=60) as answer:
        for piece in answer.iter_raw():
            got, most = got + len(piece), max(most, resident(gateway))
    assert got == 1 << 30
    piece, digest = os.urandom(MIB), hashlib.sha256()

    def pieces() -> Iterator[bytes]:
        nonlocal most
        for _ in range(1024):
            digest.update(piece)
            most = max(most, resident(gateway))
            yield piece

    said = httpx.post(f"{preview.base}/count", content=pieces(), headers=sent, timeout=120)
    assert said.text == f"{1 << 30} {digest.hexdigest()}"
    assert most - before < 48 * MIB
    box.run("rm /workspace/big")


def gateway_of(service: Service) -> int:
    """The pid of the gateway of the service that runs now."""
    serving = service.running["serve"].pid
    children = Path(f"/proc/{serving}/task/{serving}/children").read_text().split()
    (pid,) = [int(pid) for pid in children if b"gateway" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return pid


def test_a_revoked_key_closes_a_socket_within_a_second(service: Service, box: Sandbox) -> None:
    other = service.api("acceptance")
    with Preview(service, Sandbox(other, box.id), 3000).connected("/ws") as ws:
        ws.send("here")
        assert ws.recv(10) == "here"
        service.revoke(other)
        with pytest.raises(ConnectionClosed):
            ws.recv(3)


def test_a_public_port_is_open_to_everybody_and_a_fork_has_none(service: Service, api: Api, isolation: str) -> None:
    with fresh(api, runtime="bun", isolation=isolation, ephemeral=False) as first:
        serve(first, "127.0.0.1")
        preview = Preview(service, first, 3000)
        preview.token = ""
        assert preview.get().status_code == 401
        first.post("/ports", port=3000, public=True)
        assert preview.get().status_code == 200
        checkpoint = first.post("/checkpoints")["id"]
        with fresh(api, fromCheckpoint=checkpoint) as fork:
            shown = api.call("GET", "/ports", params={"id": fork.id, "port": 3000})["ports"][0]
            assert shown["public"] is False
        first.post("/ports", port=3000, public=False)
        assert preview.get().status_code == 401
    assert preview.get().status_code == 401


def test_a_visitor_keeps_a_sandbox_awake_and_a_call_wakes_it(service: Service, api: Api) -> None:
    lifecycle = {"idlePauseMs": 3000, "autoResume": True}
    with fresh(api, runtime="python", isolation="runsc", lifecycle=lifecycle) as box:
        box.write("/workspace/server.py", PYTHON.encode())
        box.run("setsid python3 server.py >/dev/null 2>&1 & sleep 0.1")  # no command keeps it awake
        eventually("it to listen", lambda: 3000 in ports(box), 60)
        preview = Preview(service, box, 3000)
        sent = {"Host": preview.host, "X-Boxkeep-Token": preview.token}
        with httpx.stream("GET", f"{preview.base}/", headers=sent, timeout=30) as got:
            seen = got.iter_lines()
            assert [next(seen) for _ in range(7)] == ["0", "1", "2", "3", "4", "5", "6"]  # as many seconds
            assert api.get(box.id)["status"] == "active"
        assert api.wait_status(box.id, "paused")["reason"] == "idle"
        with httpx.stream("GET", f"{preview.base}/", headers=sent, timeout=60) as got:
            assert next(got.iter_lines()) == "0"


def test_the_gateway_comes_back_when_it_is_killed_and_goes_with_its_service(
    service: Service, api: Api, box: Sandbox
) -> None:
    preview = Preview(service, box, 3000)
    killed = gateway_of(service)
    os.kill(killed, signal.SIGKILL)

    def answers() -> bool:
        try:
            return preview.get().status_code == 200
        except httpx.TransportError:
            return False

    eventually("the gateway to be back", answers, 20)
    second = gateway_of(service)
    assert second != killed
    service.restart("serve")
    eventually("the gateway to be back", answers, 20)
    assert gateway_of(service) != second
    eventually("the second to be gone", lambda: not os.path.exists(f"/proc/{second}"), 10)


def test_no_token_or_cookie_is_in_a_file_of_the_services(service: Service, box: Sandbox) -> None:
    preview = Preview(service, box, 3000)
    got = preview.get(f"/?boxkeep_token={preview.token}", Accept="text/html", **{"X-Boxkeep-Token": ""})
    cookie = got.headers["set-cookie"].partition("=")[2].partition(";")[0]
    preview.get("/", Cookie=f"boxkeep_preview={cookie}", **{"X-Boxkeep-Token": ""})
    for file in service.logs.iterdir():
        written = file.read_bytes()
        assert preview.token.encode() not in written
        assert cookie.encode() not in written
