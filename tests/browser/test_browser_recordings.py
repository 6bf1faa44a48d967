"""Recordings of browsers of sandboxes: what was on the screen is seen in films that outlive it, whatever was killed."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from boxkeep_server.model.browsers import RECORDINGS_FOLDER
from tests.browser.remote import BROWSER, driven, front, happened, until_ready, viewer
from tests.clients import Api, Sandbox, eventually, fresh
from tests.films import Colour, colours, like, plays
from tests.services import Service

RED: Colour = (255, 0, 0)
BLUE: Colour = (0, 0, 255)
RECORDED: dict[str, Any] = {
    "browser": {**BROWSER, "recording": True},
    "storage": {"artifactPrefix": "mine"},
}
FILM_S = 60.0
HEAD = 2000
"""Bytes that a film has before its first frame, at most."""
UNDER_WAY = f"{RECORDINGS_FOLDER}/under-way"


@pytest.fixture(scope="module")
def api(equipped: Service) -> Api:
    return equipped.api("recordings", "pro")


@pytest.fixture(scope="module")
def box(api: Api, isolation: str) -> Iterator[Sandbox]:
    """A sandbox whose browser is ready and recorded."""
    with fresh(api, runtime="base", isolation=isolation, capabilities=RECORDED) as made:
        until_ready(made)
        yield made


def paint(browser: Browser, box: Sandbox, colour: Colour) -> None:
    """Have the whole page be of one colour."""
    remote = driven(browser, box)
    front(remote).set_content("<body style='background: rgb({}, {}, {})'>".format(*colour))
    remote.close()


def films(box: Sandbox) -> list[str]:
    """The keys of what was recorded, in order."""
    items = box.api.call("GET", "/artifacts", params={"id": box.id})["items"]
    assert {item["contentType"] for item in items} <= {"video/mp4"}
    return [item["key"] for item in items]


def fetched(box: Sandbox, key: str, directory: Path) -> Path:
    film = directory / key.rpartition("/")[2]
    film.write_bytes(box.api.ask("GET", "/artifacts/download", params={"id": box.id, "key": key}).content)
    return film


def under_way(box: Sandbox) -> list[str]:
    """The keys under which what is being recorded, and has a frame, will be published."""
    found = box.entries(UNDER_WAY).items()
    return [f"mine/recordings/{name}" for name, one in found if name.endswith(".mp4") and one["size"] > HEAD]


def one_under_way(box: Sandbox) -> str:
    """The newest of them, once there is one."""
    return eventually("something to be recorded", lambda: max(under_way(box), default=None), FILM_S, 0.3)


def next_under_way(box: Sandbox) -> str:
    """One that begins after now."""
    now = max([*under_way(box), *films(box)])
    return eventually("another film to begin", lambda: next((one for one in under_way(box) if one > now), None), FILM_S)


def published(box: Sandbox, key: str) -> None:
    """Wait until a film is there."""
    eventually(f"{key} to be published", lambda: key in films(box), FILM_S, 0.5)


def shows(box: Sandbox, colour: Colour, directory: Path, after: str = "") -> str | None:
    """The first film behind one in which that colour is seen."""
    for key in films(box):
        if key > after and any(like(one, colour) for one in colours(fetched(box, key, directory), (200, 300))):
            return key
    return None


def each_once(box: Sandbox) -> bool:
    """Whether each film was published once, as the timeline tells."""
    told = [one["data"]["key"] for one in happened(box) if one["type"] == "sandbox.artifacts.updated"]
    return sorted(told) == films(box)


def test_what_is_on_the_screen_is_seen_in_films_that_follow_each_other(
    browser: Browser, box: Sandbox, tmp_path: Path
) -> None:
    paint(browser, box, RED)
    red = eventually("a film with red", lambda: shows(box, RED, tmp_path), FILM_S, 1)
    paint(browser, box, BLUE)
    blue = eventually("a film with blue", lambda: shows(box, BLUE, tmp_path, red), FILM_S, 1)
    assert red.startswith("mine/recordings/")
    for key in (red, blue):
        said = plays(fetched(box, key, tmp_path))
        assert (said["width"], said["height"]) > (1279, 719)
    begins = [datetime.strptime(key[16:], "%Y-%m-%dT%H-%M-%S.%fZ.mp4").replace(tzinfo=UTC) for key in (red, blue)]
    assert begins[0] < begins[1]
    left = set(box.entries(RECORDINGS_FOLDER))
    assert not {key.rpartition("/")[2] for key in (red, blue)} & left, "what is published is taken away"
    assert each_once(box)


def test_a_recording_outlives_the_death_of_whatever_makes_it(browser: Browser, box: Sandbox, tmp_path: Path) -> None:
    for victim in ("^ffmpeg .*x11grab", "^Xvnc ", "boxkeep_desktop/__main__"):
        cut = one_under_way(box)
        box.run(f"pkill -KILL -o -f '{victim}'", user="root")
        published(box, cut)
        assert one_under_way(box) > cut
    until_ready(box)
    assert box.run("pgrep -c '^Xvnc$'").strip() == "1", "what a killed desktop was made of is gone with it"
    for key in films(box):
        plays(fetched(box, key, tmp_path))
    assert each_once(box)


def test_it_follows_the_size_of_the_screen(box: Sandbox, tmp_path: Path) -> None:
    until_ready(box)
    before = films(box)[-1]
    box.post("/preview/resize", width=801, height=601)

    def found() -> bool:
        sizes = [plays(fetched(box, key, tmp_path))["width"] for key in films(box) if key > before]
        return any(800 < size < 820 for size in sizes)

    eventually("a film of that size", found, FILM_S, 1)


def test_nothing_is_lost_or_doubled_when_the_control_plane_is_killed(equipped: Service, box: Sandbox) -> None:
    for _ in range(2):
        cut = one_under_way(box)
        equipped.restart("serve")
        published(box, cut)
    assert each_once(box)


def test_in_an_exclusive_handoff_nothing_is_recorded(browser: Browser, box: Sandbox) -> None:
    paint(browser, box, BLUE)
    spot = viewer(browser, box)
    spot.wait_for_selector("#recorded:visible")
    cut = one_under_way(box)
    box.post("/handoff", reason="login_failed", message="", exclusive=True)
    box.post("/handoff/accept", controller="ada")
    eventually("the agent to be kept out", lambda: driver(box) == "human", FILM_S, 0.1)
    assert box.exec("pgrep -f '^ffmpeg .*x11grab'", user="root")["exitCode"] == 1
    spot.wait_for_selector("#recorded", state="hidden")
    published(box, cut)
    box.post("/handoff/complete")
    assert one_under_way(box) > cut
    spot.wait_for_selector("#recorded:visible")
    spot.close()


def driver(box: Sandbox) -> str:
    mode: str = box.api.get(box.id)["browserPreview"]["controlMode"]
    return mode


def test_it_goes_on_after_a_pause_and_is_whole_at_the_end(
    browser: Browser, api: Api, isolation: str, tmp_path: Path
) -> None:
    with fresh(api, runtime="base", isolation=isolation, ephemeral=False, capabilities=RECORDED) as box:
        paint(browser, box, RED)
        eventually("a film with red", lambda: shows(box, RED, tmp_path), FILM_S, 1)
        cut = one_under_way(box)
        assert box.pause()["status"] == "paused"
        assert box.resume()["status"] in ("ready", "active")
        until_ready(box)
        published(box, cut)
        paint(browser, box, BLUE)
        last = next_under_way(box)
        api.delete(box.id)
        eventually("its end", lambda: api.get(box.id)["status"] == "ended", 60, 0.3)
        assert last in films(box)
        assert shows(box, BLUE, tmp_path, cut) is not None
        for key in films(box):
            plays(fetched(box, key, tmp_path))
        assert each_once(box)
        kinds = [one["type"] for one in happened(box)]
        assert "sandbox.artifacts.missed" not in kinds
        assert kinds.count("sandbox.browser.failed") <= (isolation == "runc"), "only a pause of files ends a browser"
