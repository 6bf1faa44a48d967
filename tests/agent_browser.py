"""A browser for the agent's tools: a real Chromium behind the real door, and a site of pages to look at."""

import asyncio
import contextlib
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar, cast

import httpx

from boxkeep_desktop.chromium import Chromium
from boxkeep_desktop.devtools import DevTools
from boxkeep_desktop.holds import Mode
from tests.clients import eventually
from tests.ingredients import chromium
from tests.instances import free_port

T = TypeVar("T")

_TIDY_S = 10.0


@dataclass(frozen=True)
class _Spoken:
    """Where a Chromium speaks its protocol, which is all that the door asks of one."""

    port: int
    path: str


class Behind:
    """The door of a sandbox's browser, and a Chromium without a window behind it that can be ended and started."""

    def __init__(self, profile: Path) -> None:
        self.port = free_port()
        self._profile = profile
        self._loop = asyncio.new_event_loop()
        self._chromium: _Spoken | None = None
        self._door = DevTools(lambda: cast("Chromium | None", self._chromium), "ai")
        self._turning = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._turning.start()
        self._server = self._do(self._door.serve(self.port))
        self.start()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    @property
    def clients(self) -> int:
        """How many clients the door has let in."""
        return len(self._door._open)

    @property
    def is_running(self) -> bool:
        """Whether Chromium has not ended."""
        return self._process.poll() is None

    def hand_over(self, mode: Mode) -> None:
        """Have somebody else drive."""
        self._do(self._door.hand_over(mode))

    def renew(self) -> None:
        """Have it as it was at first, however it was left: in control of the AI, with one empty page and nobody there.

        Chromium is started again only where it has ended or cannot be had so.
        """
        self.hand_over("ai")
        eventually("its clients to be gone", lambda: self.clients == 0, 30)
        try:
            self._tidy()
        except (httpx.HTTPError, AssertionError):
            self.kill()
            self.start()

    def _tidy(self) -> None:
        assert self._chromium is not None, "Chromium has been ended"
        with httpx.Client(base_url=f"http://127.0.0.1:{self._chromium.port}/json", timeout=_TIDY_S) as chromium:

            def pages() -> list[str]:
                return [one["id"] for one in chromium.get("/list").json() if one["type"] == "page"]

            before = pages()
            chromium.put("/new?about:blank").raise_for_status()
            for page in before:
                chromium.get(f"/close/{page}")
            eventually("the pages to be closed", lambda: len(pages()) == 1, _TIDY_S)

    def start(self) -> None:
        """Start a Chromium."""
        file = self._profile / "DevToolsActivePort"
        file.unlink(missing_ok=True)
        switches = ["--headless=new", "--no-sandbox", "--remote-debugging-port=0", "--remote-allow-origins=*"]
        switches += ["--no-first-run", "--disable-gpu", "--window-size=1280,800", f"--user-data-dir={self._profile}"]
        self._process = subprocess.Popen(
            [chromium(), *switches, "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"HOME": str(self._profile), "PATH": "/usr/bin:/bin"},
        )
        eventually("Chromium to listen", lambda: file.exists() and file.read_text().count("\n") == 1, 60)
        port, path = file.read_text().split("\n")
        self._chromium = _Spoken(int(port), path)

    def kill(self) -> None:
        """End it in the middle of what it does."""
        self._chromium = None
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End all."""
        self.kill()
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._turning.join()
        self._loop.close()


class Site(ThreadingHTTPServer):
    """Serves pages that are put into `pages`: HTML by path, or a function that answers a request itself."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Page)
        self.pages: dict[str, str | Callable[[BaseHTTPRequestHandler], None]] = {}
        self.url = f"http://localhost:{self.server_port}"
        self.other = f"http://127.0.0.1:{self.server_port}"

    def put(self, path: str, page: str | Callable[[BaseHTTPRequestHandler], None]) -> str:
        """The URL of a page that is there from now on."""
        self.pages[path] = page
        return self.url + path

    @classmethod
    @contextlib.contextmanager
    def serving(cls) -> Iterator["Site"]:
        """One that serves for as long as this lasts."""
        with cls() as site:
            threading.Thread(target=site.serve_forever, args=(0.02,), daemon=True).start()
            yield site
            site.shutdown()


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        site = self.server
        assert isinstance(site, Site)
        page = site.pages.get(self.path.partition("?")[0])
        if callable(page):
            page(self)
            return
        body = (page or "").encode()
        self.send_response(404 if page is None else 200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as its base has it
        pass
