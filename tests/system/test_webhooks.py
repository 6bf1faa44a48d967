"""Webhooks of the running service, to a receiver on loopback that its settings open."""

import contextlib
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.clients import Api, eventually, fresh
from tests.instances import free_port
from tests.services import Service

PAGE = Path(__file__).resolve().parent.parent.parent / "docs/how-to/webhooks.md"
LIFE = ["sandbox.created", "sandbox.assigned", "sandbox.ready", "sandbox.ending", "sandbox.ended"]


class Receiver(http.server.ThreadingHTTPServer):
    """Keeps what it is sent, and answers while `answering` is set."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answering = threading.Event()
        self.answering.set()
        super().__init__(("127.0.0.1", port), _Handler)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.server.answering.wait()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(204)
            self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def receiving(port: int) -> Iterator[Receiver]:
    with Receiver(port) as receiver:
        thread = threading.Thread(target=receiver.serve_forever)
        thread.start()
        try:
            yield receiver
        finally:
            receiver.answering.set()
            receiver.shutdown()
            thread.join()


@pytest.fixture
def hook(api: Api) -> Iterator[dict[str, Any]]:
    made = api.http.post("/v1/webhooks", json={"url": f"http://127.0.0.1:{free_port()}/hooks"}).raise_for_status()
    yield made.json()
    api.http.delete("/v1/webhooks", params={"id": made.json()["id"]}).raise_for_status()


def port_of(hook: dict[str, Any]) -> int:
    return int(hook["url"].removeprefix("http://127.0.0.1:").removesuffix("/hooks"))


def verified(hook: dict[str, Any], receiver: Receiver) -> list[dict[str, Any]]:
    """What came, as the how-to's function verifies it."""
    names: dict[str, Any] = {}
    exec(PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0], names)
    return [names["verified"](hook["signingSecret"], headers, body) for headers, body in list(receiver.got)]


def told_of(sandbox: str, hook: dict[str, Any], receiver: Receiver) -> list[str]:
    """The types of what came of a sandbox, each message once, in the order in which it came."""
    seen = {one["id"]: one["type"] for one in verified(hook, receiver) if one["data"]["id"] == sandbox}
    return list(seen.values())


def test_the_life_of_a_sandbox_is_told_in_order(api: Api, hook: dict[str, Any], isolation: str) -> None:
    with receiving(port_of(hook)) as receiver:
        with fresh(api, runtime="base", isolation=isolation, env={"TOKEN": "hidden-from-hooks"}) as sandbox:
            sandbox.exec("echo hidden-from-hooks")
        eventually("its end to be told", lambda: LIFE[-1] in told_of(sandbox.id, hook, receiver), 30)
        assert told_of(sandbox.id, hook, receiver) == LIFE
        assert not any(b"hidden" in body for _, body in receiver.got)


def test_what_was_owed_when_the_service_was_killed_arrives(service: Service, api: Api, hook: dict[str, Any]) -> None:
    with receiving(port_of(hook)) as receiver:
        receiver.answering.clear()
        made = api.create(runtime="base", isolation="runc")
        eventually("the first message to be on its way", lambda: bool(receiver.got), 30)
        api.wait_status(made["id"], "ready", "active")
        api.delete(made["id"])
        service.restart("serve")
        assert told_of(made["id"], hook, receiver) == LIFE[:1], verified(hook, receiver)
        receiver.answering.set()

        def all_delivered() -> bool:
            listed = api.http.get("/v1/webhooks/deliveries", params={"id": hook["id"]}).raise_for_status().json()
            return [one["state"] for one in listed["items"]] == ["delivered"] * len(LIFE)

        eventually("everything to be delivered", all_delivered, 60, 0.5)
        assert told_of(made["id"], hook, receiver) == LIFE
        assert [one["type"] for one in verified(hook, receiver)] == [LIFE[0], *LIFE]


@pytest.mark.parametrize("url", ["http://10.0.0.1/", "http://169.254.169.254/latest", "http://[::1]/"])
def test_the_inside_is_refused(api: Api, url: str) -> None:
    refused = api.http.post("/v1/webhooks", json={"url": url})
    assert (refused.status_code, refused.json()["error"]) == (400, "Invalid url: webhooks may not reach this address")
