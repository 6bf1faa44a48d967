"""Browsers of sandboxes: driven from outside by Playwright as it is, watched and taken over in a real page of ours."""

import json
import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import websockets.sync.client
from playwright.sync_api import Browser, Error, Page
from websockets.exceptions import ConnectionClosed

from tests.browser.remote import BROWSER, driven, front, told, until_ready, viewer
from tests.clients import Api, Refused, Sandbox, eventually, fresh
from tests.services import Service

FORM = "<title>form</title><input id=code autofocus><button onclick=\"document.title='pressed'\">press</button>"
COUNTS = "<title>0</title><script>setInterval(() => document.title = Number(document.title) + 1, 100)</script>"


@pytest.fixture(scope="module")
def service(equipped: Service) -> Service:
    return equipped


@pytest.fixture(scope="module")
def api(service: Service) -> Api:
    return service.api("browsers")


@pytest.fixture(scope="module")
def box(api: Api, isolation: str) -> Iterator[Sandbox]:
    """A sandbox with a browser that is ready; tests that share it leave it with nobody in control."""
    with fresh(api, runtime="base", isolation=isolation, capabilities={"browser": BROWSER}) as made:
        until_ready(made)
        yield made


def asked(remote: Browser, expression: str) -> object:
    """What a page answers; nothing while it goes from one place to another."""
    try:
        return front(remote).evaluate(expression)
    except Error:
        return None


def is_gone(remote: Browser) -> bool:
    """Whether its client has lost it, which it is told of only while something is asked of it."""
    try:
        front(remote).evaluate("1")
    except Error:
        return not remote.is_connected()
    return False


def says(page: Page, words: str) -> None:
    page.wait_for_function("words => document.getElementById('who').textContent.includes(words)", arg=words)


def at(page: Page, remote: Page, selector: str) -> tuple[float, float]:
    """Where on the viewer's page something of the remote page is."""
    spot = remote.locator(selector).bounding_box()
    chrome = remote.evaluate("[outerWidth - innerWidth, outerHeight - innerHeight, outerWidth]")
    canvas = page.locator("#screen canvas").bounding_box()
    assert spot is not None
    assert canvas is not None
    scale = canvas["width"] / chrome[2]
    x = spot["x"] + spot["width"] / 2 + chrome[0]
    y = spot["y"] + spot["height"] / 2 + chrome[1]
    return canvas["x"] + x * scale, canvas["y"] + y * scale


def driver(box: Sandbox) -> str:
    mode: str = box.api.get(box.id)["browserPreview"]["controlMode"]
    return mode


def test_playwright_drives_it_from_outside(browser: Browser, box: Sandbox) -> None:
    remote = driven(browser, box)
    page = front(remote)
    assert page.evaluate("[innerWidth, innerHeight]") == [1280, 720]
    page.set_content(FORM)
    page.fill("#code", "typed from outside")
    page.click("button")
    assert page.title() == "pressed"
    assert page.screenshot()[:4] == b"\x89PNG"
    assert box.run("ps -o user= -C chromium | sort -u", user="root").split() == ["user"]
    assert "--no-sandbox" not in box.run("tr '\\0' ' ' < /proc/$(pgrep -o chromium)/cmdline")
    remote.close()


def test_it_goes_where_it_is_told_and_is_of_the_size_that_is_wished(browser: Browser, box: Sandbox) -> None:
    box.run("mkdir -p /tmp/site && echo '<title>inside</title>' > /tmp/site/index.html")
    served = box.background("cd /tmp/site && exec python3 -m http.server --bind 127.0.0.1 8000")
    eventually("it to listen", lambda: box.exec("curl -sf localhost:8000/")["exitCode"] == 0, 20, 0.2)
    box.post("/preview/start", port=8000)
    remote = driven(browser, box)
    eventually("the page inside", lambda: front(remote).title() == "inside", 20)
    box.post("/preview/navigate", url="about:blank")
    eventually("another page", lambda: asked(remote, "location.href") == "about:blank", 20)
    box.post("/preview/resize", width=800, height=600)
    eventually("the new size", lambda: asked(remote, "[innerWidth, innerHeight]") == [800, 600], 10)
    box.post("/preview/resize", width=1280, height=720)
    eventually("the old size", lambda: asked(remote, "[innerWidth, innerHeight]") == [1280, 720], 10)
    remote.close()
    box.post("/processes/signal", processId=served, signal="KILL", tree=True)


def test_a_page_moves_at_any_size_as_on_a_screen(browser: Browser, box: Sandbox) -> None:
    remote = driven(browser, box)
    for width in (800, 1280):
        box.post("/preview/resize", width=width, height=720)
        eventually("the size", lambda: asked(remote, "innerWidth") == width, 10)  # noqa: B023
        eventually("frames", lambda: _frames_a_second(front(remote)) > 10, 30)
    remote.close()


def _frames_a_second(page: Page) -> float:
    """Of all that moves on a page, within a second; a display of a low rate has Chromium make few."""
    frames: float = page.evaluate("""new Promise(done => {
      const begun = performance.now(); let frames = 0;
      const next = now => now - begun > 1000 ? done(frames) : (frames++, requestAnimationFrame(next));
      requestAnimationFrame(next); })""")
    return frames


def test_a_person_takes_over_and_the_agent_is_kept_out(browser: Browser, box: Sandbox) -> None:
    remote = driven(browser, box)
    page = front(remote)
    page.set_content(FORM)
    page.evaluate("1")
    spot = viewer(browser, box, controller="ada")
    says(spot, "The agent drives")
    spot.mouse.click(*at(spot, page, "#code"))
    spot.keyboard.type("too early")

    box.post("/handoff", reason="mfa", message="Please type the code that was sent to you.")
    says(spot, "a second factor is asked for")
    assert "code that was sent" in spot.inner_text("#request")
    where = at(spot, page, "#code")
    spot.click("#take")
    says(spot, "You drive")
    assert driver(box) == "shared"
    with pytest.raises(Error):
        page.evaluate("document.title = 'the agent was here'")
    spot.mouse.click(*where)
    time.sleep(0.5)  # the window gets the keyboard with the click
    spot.keyboard.type("4711")

    spot.click("#give")
    says(spot, "The agent drives")
    again = driven(browser, box)
    seen = front(again)
    eventually("what was typed", lambda: seen.evaluate("document.getElementById('code').value") == "4711", 10)
    assert seen.title() == "form", "the agent could act while a person drove"
    steps = [one for one in told(box) if ".handoff." in one]
    assert steps[-3:] == ["sandbox.handoff.requested", "sandbox.handoff.accepted", "sandbox.handoff.completed"]
    again.close()
    remote.close()
    spot.close()


def test_an_exclusive_handoff_leaves_the_agent_nothing_to_watch(browser: Browser, box: Sandbox) -> None:
    remote = driven(browser, box)
    box.post("/handoff", reason="login_failed", message="", exclusive=True)
    box.post("/handoff/accept", controller="ada")
    eventually("the agent to be sent away", lambda: is_gone(remote), 15)
    eventually("it to be told", lambda: driver(box) == "human", 15)
    with pytest.raises(Error):
        driven(browser, box)
    box.post("/handoff/cancel")
    eventually("the agent to drive again", lambda: driver(box) == "ai", 15)
    driven(browser, box).close()


def test_who_may_only_watch_touches_nothing(browser: Browser, box: Sandbox) -> None:
    remote = driven(browser, box)
    page = front(remote)
    page.set_content(FORM)
    spot = viewer(browser, box, readOnly="true")
    says(spot, "The agent drives")
    assert not spot.locator("#take").is_visible()
    box.post("/handoff", reason="custom", message="")
    box.post("/handoff/accept", controller="viewer")
    says(spot, "viewer drives")
    spot.evaluate("document.getElementById('take').click()")
    spot.mouse.click(*_middle(spot))
    spot.keyboard.type("words")
    box.post("/handoff/complete")
    eventually("the agent to drive again", lambda: driver(box) == "ai", 15)
    seen = driven(browser, box)
    assert front(seen).evaluate("document.getElementById('code').value") == ""
    seen.close()
    remote.close()
    spot.close()


def _middle(page: Page) -> tuple[float, float]:
    canvas = page.locator("#screen canvas").bounding_box()
    assert canvas is not None
    return canvas["x"] + canvas["width"] / 2, canvas["y"] + canvas["height"] / 2


def test_a_browser_that_is_killed_comes_again(browser: Browser, box: Sandbox) -> None:
    remote = driven(browser, box)
    before = told(box).count("sandbox.browser.ready")
    box.run("pkill -KILL -o chromium")
    eventually("it to be told", lambda: told(box).count("sandbox.browser.ready") > before, 60, 0.3)
    assert "sandbox.browser.failed" in told(box)
    eventually("the client to see it", lambda: is_gone(remote), 15)
    again = driven(browser, box)
    assert front(again).url == "about:blank"
    again.close()


def test_memory_goes_on_with_the_page_and_files_with_the_profile(browser: Browser, api: Api, isolation: str) -> None:
    capabilities = {"browser": {**BROWSER, "persistentProfile": True}}
    with fresh(api, runtime="base", isolation=isolation, ephemeral=False, capabilities=capabilities) as box:
        remote = driven(browser, box)
        page = front(remote)
        remote.contexts[0].add_cookies(
            [{"name": "kept", "value": "yes", "domain": "example.com", "path": "/", "expires": time.time() + 9e6}]
        )
        page.set_content(COUNTS)
        eventually("it to count", lambda: int(page.title()) > 2, 20)
        kept = "/home/user/.config/boxkeep-browser/Default"
        copied = f"cp $(find {kept} -name Cookies) /tmp/cookies"  # Chromium lets nobody else into its own
        stored = f"{copied} && sqlite3 /tmp/cookies 'select count(*) from cookies'"
        eventually("Chromium to write the cookie down", lambda: box.exec(stored)["stdout"].strip() == "1", 60, 1)
        counted = int(page.title())
        remote.close()
        assert box.pause()["status"] == "paused"
        assert box.resume()["status"] in ("ready", "active")
        again = driven(browser, box)
        if isolation == "runsc":
            assert int(front(again).title()) >= counted
        assert [one["value"] for one in again.contexts[0].cookies("https://example.com")] == ["yes"]
        again.close()


def test_a_browser_alone_keeps_no_sandbox_awake(api: Api, isolation: str) -> None:
    wish = {"capabilities": {"browser": BROWSER}, "lifecycle": {"idlePauseMs": 3000}}
    with fresh(api, runtime="base", isolation=isolation, **wish) as box:
        seen = eventually("it to pause", lambda: _paused(api, box), 60, 0.3)
        assert seen["reason"] == "idle"


def _paused(api: Api, box: Sandbox) -> dict[str, Any] | None:
    seen = api.get(box.id)
    return seen if seen["status"] == "paused" else None


def opened(url: str) -> websockets.sync.client.ClientConnection:
    return websockets.sync.client.connect(url, open_timeout=10, max_size=None)


def refused_code(url: str) -> int:
    """The status that a WebSocket is refused with."""
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused, opened(url):
        pass
    return refused.value.response.status_code


def test_a_link_opens_what_it_was_made_for_and_dies_with_its_key(api: Api, service: Service, box: Sandbox) -> None:
    mine = until_ready(box)["pairedBrowser"]["cdpUrl"]
    address = urlsplit(mine)
    token = parse_qs(address.query)["token"][0]
    base = f"ws://{address.netloc}"
    for path, query in (
        (address.path, f"id={'a' * 32}&token={token}"),
        (address.path, f"id={box.id}&token={token[:-2]}xx"),
        (address.path, f"id={box.id}"),
        ("/v1/sandboxes/terminal", f"id={box.id}&terminalId={'a' * 32}&token={token}"),
    ):
        assert refused_code(f"{base}{path}?{query}") == 401
    display = f"{base}/v1/sandboxes/preview/display?id={box.id}&token={token}"
    with opened(display) as socket, pytest.raises(ConnectionClosed):
        socket.recv(10)

    other = service.api("strangers")
    for method, path in (("GET", "/preview"), ("GET", "/preview/viewer"), ("GET", "/handoff")):
        assert other.ask(method, path, params={"id": box.id}).status_code == 404
    doomed = service.api("browsers", "unlimited")
    url = doomed.get(box.id)["pairedBrowser"]["cdpUrl"]
    with opened(url) as socket:
        socket.send(json.dumps({"id": 1, "method": "Browser.getVersion"}))
        assert "Chrome/" in json.loads(socket.recv(10))["result"]["product"]
        service.revoke(doomed)
        with pytest.raises(ConnectionClosed):
            socket.recv(10)
    assert refused_code(url) == 401


def test_what_the_protocols_clients_say_is_bounded_and_nothing_else_is_served(box: Sandbox) -> None:
    url = until_ready(box)["pairedBrowser"]["cdpUrl"]
    for rubbish in ("", "[", "[]", '{"id": "x"}', "\x00" * 1000, "[" * 10_000):
        with opened(url) as socket:
            socket.send(rubbish)
            socket.send(json.dumps({"id": 7, "method": "Browser.getVersion"}))
            try:
                while json.loads(socket.recv(10)).get("id") != 7:
                    continue
            except ConnectionClosed:
                continue  # Chromium has no patience with it
    for path in ("/etc/passwd", "/json/../etc", "/devtools/page/../../x", "/json/new?file:///etc/passwd"):
        answer = box.exec(f"curl -s -o /dev/null -w %{{http_code}} --path-as-is -X GET 'http://127.0.0.1:9222{path}'")[
            "stdout"
        ]
        assert re.fullmatch(r"40\d|405", answer), (path, answer)


def test_where_there_is_no_browser_it_says_so(api: Api, isolation: str) -> None:
    with fresh(api, runtime="base", isolation=isolation) as plain:
        assert api.get(plain.id)["pairedBrowser"] is None
        for method, path, how in (("GET", "/preview", "params"), ("POST", "/preview/start", "json")):
            answer = api.ask(method, path, **{how: {"id": plain.id}})
            assert (answer.status_code, "no browser" in answer.json()["error"]) == (409, True)
        with pytest.raises(Refused):
            plain.post("/handoff", reason="mfa", message="")
