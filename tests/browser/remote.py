"""Browsers of sandboxes, as who drives them from outside sees them."""

from typing import Any

from playwright.sync_api import Browser, Page

from tests.clients import Sandbox, eventually

BROWSER: dict[str, Any] = {"mode": "local-chromium", "humanInLoop": True}
READY_S = 120.0


def until_ready(box: Sandbox) -> dict[str, Any]:
    """The sandbox once its browser is ready."""

    def look() -> dict[str, Any] | None:
        seen = box.api.get(box.id)
        assert (seen["browserPreview"] or {}).get("status") != "failed", box.api.ask(
            "GET", "/preview", params={"id": box.id}
        ).text
        return seen if seen["browserPreview"] and seen["pairedBrowser"]["cdpUrl"] else None

    return eventually("the browser to be ready", look, READY_S, 0.2)


def driven(browser: Browser, box: Sandbox) -> Browser:
    """The sandbox's browser, for who drives it by its protocol."""
    return browser.browser_type.connect_over_cdp(until_ready(box)["pairedBrowser"]["cdpUrl"])


def front(remote: Browser) -> Page:
    """The page that is seen."""
    return remote.contexts[0].pages[0]


def viewer(browser: Browser, box: Sandbox, **query: Any) -> Page:
    """A page of ours that shows the screen."""
    url = box.api.call("GET", "/preview/viewer", params={"id": box.id, **query})["url"]
    page = browser.new_page(viewport={"width": 1300, "height": 950})
    page.goto(url)
    page.wait_for_selector("#screen canvas", timeout=20_000)
    return page


def happened(box: Sandbox) -> list[dict[str, Any]]:
    """The timeline of a sandbox."""
    answer = box.api.call("GET", "/timeline", params={"id": box.id, "limit": 1000})
    items: list[dict[str, Any]] = answer["items"]
    return items


def told(box: Sandbox) -> list[str]:
    """What has happened, by type."""
    return [item["type"] for item in happened(box)]
