"""Previews in a real browser: cookies, sockets, workers, frames, and what one sandbox's page may do to another's."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.clients import Api, Sandbox, eventually, fresh

SITE = """
const worker = `self.addEventListener("fetch", event => {
  if (event.request.url.endsWith("/from-worker")) event.respondWith(new Response("by the worker"));
});
self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", event => event.waitUntil(self.clients.claim()));`;
const head = { "set-cookie": "own=1; Domain=localhost; Path=/", "strict-transport-security": "max-age=9999" };
Bun.serve({
  port: 3000,
  fetch(request, server) {
    const path = new URL(request.url).pathname;
    if (path === "/ws") return server.upgrade(request) ? undefined : new Response("no", { status: 400 });
    if (path === "/sw.js")
      return new Response(worker, { headers: { "content-type": "text/javascript", "service-worker-allowed": "/" } });
    if (path === "/sub/sw.js") return new Response(worker, { headers: { "content-type": "text/javascript",
      "service-worker-allowed": "/" } });
    if (path === "/cookies") return new Response(request.headers.get("cookie") ?? "");
    return new Response("<!doctype html><title>site</title><h1>It works</h1>", {
      headers: { "content-type": "text/html", ...head },
    });
  },
  websocket: { message(socket, message) { socket.send("echo " + message); } },
});
"""
LATE = """
Bun.serve({ port: 8000, fetch: () => new Response("<h1>Here</h1>", { headers: { "content-type": "text/html" } }) });
"""
SOCKET = """url => new Promise(done => {
  const socket = new WebSocket(url);
  socket.onopen = () => socket.send("hello");
  socket.onmessage = event => done(event.data);
  socket.onerror = () => done("refused");
})"""
WORKER = """async path => {
  const changed = new Promise(done => navigator.serviceWorker.addEventListener("controllerchange", done));
  await navigator.serviceWorker.register(path);
  await changed;
  return await (await fetch("/from-worker")).text();
}"""
BEYOND = """async () => {
  try { await navigator.serviceWorker.register("/sub/sw.js", { scope: "/" }); return "registered"; }
  catch (error) { return error.name; }
}"""


def site(api: Api, isolation: str) -> Sandbox:
    """A sandbox that serves the site."""
    box = api.ready(runtime="bun", isolation=isolation)
    box.write("/workspace/site.ts", SITE.encode())
    box.background("bun site.ts")
    eventually("it to listen", lambda: port_of(box, 3000)["listening"], 60)
    return box


def port_of(box: Sandbox, port: int) -> dict[str, Any]:
    """A port as the API shows it."""
    (found,) = box.api.call("GET", "/ports", params={"id": box.id, "port": port})["ports"]
    return dict(found)


@pytest.fixture(scope="module")
def box(api: Api, isolation: str) -> Iterator[Sandbox]:
    """A sandbox that serves the site."""
    made = site(api, isolation)
    yield made
    api.delete(made.id)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page with cookies of its own."""
    context = browser.new_context()
    yield context.new_page()
    context.close()


def test_a_site_lives_at_its_own_address_with_cookies_sockets_and_workers(page: Page, box: Sandbox) -> None:
    shown = port_of(box, 3000)
    page.goto(shown["signedUrl"])
    assert page.url == shown["url"] + "/"
    assert page.inner_text("h1") == "It works"
    assert page.evaluate("document.cookie") == "own=1"
    assert page.evaluate("async () => (await fetch('/cookies')).text()") == "own=1"
    assert page.evaluate(SOCKET, f"ws{shown['url'].removeprefix('http')}/ws") == "echo hello"
    assert page.evaluate(WORKER, "/sw.js") == "by the worker"
    cookies = {one["name"]: one for one in page.context.cookies()}
    assert cookies["own"]["domain"] == shown["url"].removeprefix("http://").partition(":")[0]
    assert cookies["boxkeep_preview"]["httpOnly"] is True
    page.reload()
    assert page.inner_text("h1") == "It works"


def test_a_worker_gets_no_further_than_its_folder(page: Page, box: Sandbox) -> None:
    page.goto(port_of(box, 3000)["signedUrl"])
    assert page.evaluate(BEYOND) == "SecurityError"


def test_a_page_of_another_sandbox_reads_and_opens_nothing(page: Page, box: Sandbox, api: Api, isolation: str) -> None:
    victim = port_of(box, 3000)
    page.goto(victim["signedUrl"])
    with fresh(api, runtime="bun", isolation=isolation) as evil:
        evil.write("/workspace/site.ts", SITE.encode())
        evil.background("bun site.ts")
        eventually("it to listen", lambda: port_of(evil, 3000)["listening"], 60)
        page.goto(port_of(evil, 3000)["signedUrl"])
        assert page.inner_text("h1") == "It works"
        read = "url => fetch(url, {credentials: 'include'}).then(got => got.text(), error => error.name)"
        assert page.evaluate(read, victim["url"] + "/cookies") == "TypeError"
        assert page.evaluate(SOCKET, f"ws{victim['url'].removeprefix('http')}/ws") == "refused"
        page.goto(victim["url"])
        assert page.inner_text("h1") == "It works"


def test_a_page_waits_for_what_does_not_listen_yet_and_then_shows_it(page: Page, box: Sandbox) -> None:
    shown = port_of(box, 8000)
    page.goto(shown["signedUrl"])
    assert page.inner_text("h1") == "Nothing listens on port 8000 yet"
    box.write("/workspace/late.ts", LATE.encode())
    box.background("bun late.ts")
    page.get_by_text("Here").wait_for(timeout=30_000)
    assert page.url == shown["url"] + "/"


def test_without_a_token_a_page_says_where_to_get_one(page: Page, box: Sandbox) -> None:
    got = page.goto(port_of(box, 3000)["url"])
    assert got is not None
    assert got.status == 401
    assert page.inner_text("h1") == "This preview is private"
    assert "GET /v1/sandboxes/ports" in page.inner_text("p")


def test_a_preview_in_a_frame_of_another_site_works(page: Page, box: Sandbox) -> None:
    shown = port_of(box, 3000)

    class Outer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f'<!doctype html><iframe src="{shown["signedUrl"]}"></iframe>'.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Outer) as outer:
        threading.Thread(target=outer.serve_forever, daemon=True).start()
        page.goto(f"http://localhost:{outer.server_port}/")
        frame = page.frame_locator("iframe")
        assert frame.locator("h1").inner_text(timeout=20_000) == "It works"
        inner = page.frames[1]
        assert inner.evaluate(SOCKET, f"ws{shown['url'].removeprefix('http')}/ws") == "echo hello"
        outer.shutdown()
