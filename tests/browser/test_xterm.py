"""xterm.js with its attach addon, unchanged, in a real browser, from a page of another origin."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, Page
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from tests.clients import Sandbox
from tests.ingredients import web_page


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def page_url() -> Iterator[str]:
    """Where the page is served."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(web_page()))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/xterm.html"
        server.shutdown()


def opened(browser: Browser, page_url: str, sandbox: Sandbox, **query: str) -> tuple[Page, str]:
    """A page on a terminal of the sandbox, and the terminal's id."""
    answer = sandbox.api.call("GET", "/terminal", params={"id": sandbox.id, **query})
    page = browser.new_page()
    page.goto(f"{page_url}?{urlencode({'url': answer['terminalUrl']})}")
    return page, answer["terminalId"]


def until_shown(page: Page, words: str) -> None:
    """Wait until the page's terminal shows these words."""
    try:
        page.wait_for_function("words => shown().includes(words)", arg=words, polling=100, timeout=20_000)
    except PlaywrightTimeout:
        raise AssertionError(f"{words!r} was not shown: {page.evaluate('shown()')!r}") from None


def test_the_attach_addon_types_shows_resizes_and_shares_a_terminal(
    browser: Browser, page_url: str, sandbox: Sandbox
) -> None:
    first, terminal = opened(browser, page_url, sandbox)
    until_shown(first, "#")
    first.locator("#screen").click()
    first.keyboard.type("printf 'gr%sße-%d\\n' ü $((6*7)); stty size\n")
    until_shown(first, "grüße-42\n24 80")
    second, _ = opened(browser, page_url, sandbox, terminalId=terminal)
    until_shown(second, "grüße-42")
    second.evaluate("id => socket.send(JSON.stringify({terminalId: id, resize: {rows: 20, cols: 60}}))", terminal)
    second.locator("#screen").click()
    second.keyboard.type("stty size\n")
    until_shown(first, "20 60")
    first.bring_to_front()
    first.keyboard.type("sh -c 'echo in-front; exec sleep 1000'\n")
    until_shown(first, "\nin-front")
    first.keyboard.press("Control+C")
    first.keyboard.type("echo still-$?\n")
    until_shown(first, "still-130")
    second.keyboard.type("exit\n")
    first.wait_for_function("() => socket.readyState === WebSocket.CLOSED", polling=100, timeout=20_000)
    for page in (first, second):
        page.close()
