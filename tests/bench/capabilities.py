"""The figures of what sandboxes can have besides: browsers, their viewer, documents, and agents."""

import base64
import contextlib
import itertools
import json
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.sync.client import connect

from boxkeep_server.model.images import SOFTWARE
from boxkeep_server.node.cgroups import Cgroups, layout
from tests import papers
from tests.bench.agents import AGENT, agents
from tests.bench.figures import Bench
from tests.bench.screen import RAW, ZRLE, Screen
from tests.bench.stopwatch import Samples, sampled, timed
from tests.chaos.bodies import body_of
from tests.clients import Api, Sandbox, eventually, fresh
from tests.ingredients import images
from tests.services import Service, running_service

WARM = '{"base-browser/runc" = 1, "base-browser/runsc" = 1}'
BROWSER = {"browser": {"mode": "local-chromium", "humanInLoop": True}}
DOCUMENTS = {"documents": {"libreofficeHeadless": True}}
UNPACKED_S = 300.0
READY_S = 120.0
REFILL_S = 10.0
COLOURS = ((200, 30, 40), (20, 160, 70))
PATCH = 32
COLOURFUL = """let n = 0;
const next = () => { document.body.style.background = n++ % 2 ? 'red' : 'blue'; requestAnimationFrame(next); };
next()"""
SCROLLING = """const lines = [...Array(4000).keys()].map((n) => `<p>${n} ${"words ".repeat(20)}</p>`);
document.body.innerHTML = lines.join('');
const go = () => { scrollBy(0, 7); requestAnimationFrame(go); };
go()"""
WATCHED_S = 20.0
GROUPS = frozenset({"browsers", "recordings", "documents", "agents"})


@contextlib.contextmanager
def capable_service() -> Iterator[Service]:
    """A service of our own with all capability software, whose browsers have a warm machine each to begin in."""
    place = {"BOXKEEP_NODE__IMAGES": str(images(*SOFTWARE)), "BOXKEEP_NODE__WARM": WARM}
    with running_service({**place, "BOXKEEP_NODE__MACHINE_MEMORY_MIB": "4096"}, beside="c") as service:
        api = service.api("bench")
        for capability in (BROWSER, DOCUMENTS, AGENT):
            eventually("the images to be unpacked", lambda wish=capability: _offers(api, wish), UNPACKED_S, 1)  # type: ignore[misc]
        yield service


def _offers(api: Api, capability: dict[str, Any]) -> bool:
    made = api.ask("POST", "", json={"runtime": "base", "capabilities": capability})
    if made.status_code == 501:
        return False
    api.delete(made.json()["id"])
    return True


@dataclass
class Capabilities:
    """Measures one service that has the software."""

    bench: Bench
    _made: Sandbox | None = field(default=None, init=False)

    def all(self, isolations: tuple[str, ...], only: Collection[str] = ()) -> None:
        """Every figure, or those of the groups in `only`."""
        for isolation in isolations:
            for group in (self.browsers, self.recordings, self.documents, self.agents):
                if not only or group.__name__ in only:
                    group(isolation)

    def browsers(self, isolation: str) -> None:
        """How soon a browser is there, and how quickly it answers and is seen."""
        self._until_driven("base", isolation)  # the first reads Chromium from the disk
        self._refilled()
        for kind, runtime in (("warm", "base"), ("cold", "python")):
            found = sampled(lambda: self._until_driven(runtime, isolation), self.bench.count(5), self._refilled)  # noqa: B023
            self.bench.tell(f"create → browser ready, {kind}", isolation, found)
        with (
            fresh(self.bench.api, runtime="base", isolation=isolation, capabilities=BROWSER) as box,
            driven(box) as ask,
        ):
            ask("Runtime.evaluate", expression="1")
            round_trip = sampled(lambda: ask("Runtime.evaluate", expression="1"), self.bench.count(200))
            self.bench.tell("CDP, a call to its answer", isolation, round_trip)
            self._delay(box, ask, isolation)
            self._rate(box, ask, isolation)

    def _until_driven(self, runtime: str, isolation: str) -> None:
        made = self.bench.api.create(runtime=runtime, isolation=isolation, capabilities=BROWSER)["id"]
        self._made = Sandbox(self.bench.api, made)
        cdp_url(self._made)

    def _refilled(self) -> None:
        """Take away what the sample before has made, and wait until the machine is quiet and the pool full."""
        made, self._made = self._made, None
        if made is not None:
            self.bench.api.delete(made.id)
            time.sleep(REFILL_S)

    def _delay(self, box: Sandbox, ask: Callable[..., Any], isolation: str) -> None:
        """From a call that changes a page's colour to the pixel at a viewer."""
        colours = itertools.cycle(COLOURS)
        with Screen(screen_url(box), RAW) as screen:
            patch = (screen.width // 2, screen.height // 2, PATCH, PATCH)
            screen.ask(*patch, whole=True)
            screen.frame()

            def once() -> None:
                colour = next(colours)
                screen.ask(*patch)
                ask("Runtime.evaluate", expression=f"document.body.style.background = 'rgb{colour}'")
                while screen.frame() != colour:
                    screen.ask(*patch)

            sampled(once, 4)
            self.bench.tell("viewer: a change to its pixel", isolation, sampled(once, self.bench.count(100)))

    def _rate(self, box: Sandbox, ask: Callable[..., Any], isolation: str) -> None:
        """Frames a second that a viewer gets of a page that changes its colour with each frame of its own."""
        ask("Runtime.evaluate", expression=COLOURFUL)
        with Screen(screen_url(box), ZRLE) as screen:
            whole = (0, 0, screen.width, screen.height)
            screen.ask(*whole, whole=True)
            frames = 0

            def watched() -> None:
                nonlocal frames
                ends = time.monotonic() + 10 * self.bench.scale
                while time.monotonic() < ends:
                    screen.frame()
                    screen.ask(*whole)
                    frames += 1

            took = timed(watched)
        self.bench.tell("viewer: frames a second", isolation, f"{frames / (took / 1000):.0f}")

    def recordings(self, isolation: str) -> None:
        """What a recording takes of a processor: a sandbox that is recorded, less one beside it that is not."""
        recorded = {"browser": {**BROWSER["browser"], "recording": True}}
        with contextlib.ExitStack() as stack:
            pair = []
            for wish in (recorded, BROWSER):
                made = fresh(self.bench.api, runtime="base", isolation=isolation, capabilities=wish)
                box = stack.enter_context(made)
                pair.append((box, stack.enter_context(driven(box))))
            for kind, script in (("still", "1"), ("scrolling", SCROLLING)):
                for _, ask in pair:
                    ask("Runtime.evaluate", expression=script)
                time.sleep(REFILL_S)  # both have just begun, and have still things to do of their own
                with_it, without = self._shares([box for box, _ in pair])
                told = f"{with_it - without:.1f} % ({with_it:.1f} less {without:.1f})"
                self.bench.tell(f"recording: share of a processor, {kind}", isolation, told)

    def _shares(self, boxes: list[Sandbox]) -> list[float]:
        """How much of a processor each sandbox takes in the same seconds, in percent, its machine as a whole."""
        service = self.bench.service
        assert service is not None, "a machine's processor time is read on its host"
        groups = Cgroups(layout(Path("/proc/mounts").read_text()), f"boxkeep-{service.instance}")
        machines = [body_of(service, box.id).machine for box in boxes]
        before, began = [groups.usage(one).cpu_ms for one in machines], time.monotonic()
        time.sleep(WATCHED_S * self.bench.scale)
        took = time.monotonic() - began
        return [(groups.usage(one).cpu_ms - then) / took / 10 for one, then in zip(machines, before, strict=True)]

    def documents(self, isolation: str) -> None:
        """A page of text to PDF: the first of a sandbox, for which LibreOffice starts, and those after it."""
        first: list[float] = []
        for _ in range(self.bench.count(3)):
            with fresh(self.bench.api, runtime="base", isolation=isolation, capabilities=DOCUMENTS) as box:
                _write_page(box)
                first.append(timed(lambda: _convert(box)))
                later = sampled(lambda: _convert(box), self.bench.count(10))
        self.bench.tell("odt → pdf, the first of a sandbox", isolation, Samples(tuple(first)))
        self.bench.tell("odt → pdf, the next", isolation, later)

    def agents(self, isolation: str) -> None:
        """See `agents.agents`."""
        agents(self.bench, isolation)


def _write_page(box: Sandbox) -> None:
    lines = "".join(f"<text:p>{papers.MARK}, line {number}</text:p>" for number in range(40))
    page = papers.open_document("text", f"<office:text>{lines}</office:text>")
    box.post("/fs/write", path="/workspace/page.odt", content=base64.b64encode(page).decode(), encoding="base64")


def _convert(box: Sandbox) -> None:
    assert box.post("/documents/convert", path="/workspace/page.odt", format="pdf")["size"] > 1000


def cdp_url(box: Sandbox) -> str:
    """Where the browser of a sandbox is driven, once it is there."""

    def look() -> str | None:
        browser = box.api.get(box.id)["pairedBrowser"]
        return str(browser["cdpUrl"]) if browser and browser["cdpUrl"] else None

    return eventually("the browser to be ready", look, READY_S, 0.02)


def screen_url(box: Sandbox) -> str:
    """Where a viewer of a sandbox's browser gets its screen."""
    address = urlsplit(box.api.call("GET", "/preview/viewer", params={"id": box.id})["url"])
    (token,) = parse_qs(address.fragment)["token"]
    return f"ws://{address.netloc}/v1/sandboxes/preview/display?id={box.id}&token={token}"


@contextlib.contextmanager
def driven(box: Sandbox) -> Iterator[Callable[..., Any]]:
    """The page of a sandbox's browser: a function that calls its protocol and waits for the answer."""
    with connect(cdp_url(box), open_timeout=30, max_size=None) as socket:
        numbers = itertools.count(1)
        session: dict[str, str] = {}

        def ask(method: str, **params: Any) -> Any:
            number = next(numbers)
            socket.send(json.dumps({"id": number, "method": method, "params": params, **session}))
            while (said := json.loads(socket.recv(timeout=READY_S))).get("id") != number:
                pass
            assert "error" not in said, said
            return said["result"]

        pages = [one for one in ask("Target.getTargets")["targetInfos"] if one["type"] == "page"]
        attached = ask("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)
        session["sessionId"] = attached["sessionId"]
        yield ask
