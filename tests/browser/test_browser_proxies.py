"""A browser that goes by a proxy of its user's which demands a password: it does, and nobody sees the password."""

from collections.abc import Iterator
from pathlib import Path

import pproxy
import pytest
from playwright.sync_api import Browser, Error, Page

from tests.browser.remote import BROWSER, driven, front, until_ready
from tests.clients import Api, Sandbox, eventually, fresh
from tests.proxies import proxy_words
from tests.services import Service

USER = "lovelace"
PASSWORD = "very-secret"
PORT = 3128
SCHEMES = {"runc": "http", "runsc": "socks5"}


@pytest.fixture(scope="module")
def api(equipped: Service) -> Api:
    return equipped.api("proxies")


@pytest.fixture(scope="module")
def box(api: Api, isolation: str) -> Iterator[Sandbox]:
    """A sandbox with a site, a proxy that demands a password, and a browser that goes by it."""
    url = f"{SCHEMES[isolation]}://{USER}:{PASSWORD}@127.0.0.1:{PORT}"
    capabilities = {"browser": {**BROWSER, "byoProxyUrl": url}}
    with fresh(api, runtime="base", isolation=isolation, capabilities=capabilities) as made:
        for file in Path(pproxy.__file__).parent.glob("*.py"):
            made.write(f"/opt/proxy/pproxy/{file.name}", file.read_bytes())
        made.write("/opt/site/index.html", b"<title>by the proxy</title>")
        made.background("cd /opt/site && exec python3 -m http.server --bind 0.0.0.0 8000")
        words = proxy_words(f"127.0.0.1:{PORT}", USER, PASSWORD)
        made.post("/exec", command="python3", args=[*words, "-v"], cwd="/opt/proxy", background=True)
        until_ready(made)
        yield made


def test_nobody_sees_the_password(box: Sandbox, equipped: Service) -> None:
    each = "for one in /proc/[0-9]*; do tr '\\0' ' ' < $one/cmdline; tr '\\0' ' ' < $one/environ; echo; done"
    seen = box.run(f"{each} | grep -v pproxy", user="root")  # but for the proxy that the test has started
    assert "--proxy-server=" in seen
    assert PASSWORD not in seen
    assert not box.exec("grep -rl very-secret /var/log /run /tmp /home 2>/dev/null")["stdout"].split()
    for path, query in (("", {}), ("/timeline", {}), ("/preview", {})):
        assert PASSWORD not in box.api.ask("GET", path, params={"id": box.id, **query}).text
    for log in equipped.logs.rglob("*"):
        assert not log.is_file() or PASSWORD.encode() not in log.read_bytes()


def title(page: Page, url: str) -> str | None:
    """What a page is called, if it can be had."""
    try:
        page.goto(url)
        return page.title()
    except Error:
        return None


def test_it_goes_by_the_proxy_and_not_without(browser: Browser, box: Sandbox) -> None:
    url = f"http://{box.run('hostname -I').split()[0]}:8000/"
    remote = driven(browser, box)
    page = front(remote)
    eventually("the page", lambda: title(page, url) == "by the proxy", 30, 1)
    assert title(page, f"{url}?again") == "by the proxy"
    (proxy,) = [
        one["processId"] for one in box.processes() if one["state"] == "running" and str(PORT) in str(one["command"])
    ]
    box.post("/processes/signal", processId=proxy, signal="KILL", tree=True)
    box.wait(proxy)
    assert title(page, f"{url}?without") != "by the proxy"
    remote.close()
