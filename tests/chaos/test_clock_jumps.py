"""The host's clock is set, an hour or a week, forwards and back, while sandboxes run, are paused and come to their end:
what is measured goes on as if nothing had been, and what is told has the new time."""

import os
import time
from itertools import pairwise
from typing import Any

import httpx
import pytest

from tests.chaos.askers import Asker
from tests.chaos.facts import all_holds, happenings
from tests.chaos.grounds import Ground
from tests.clients import Api, Sandbox, eventually

HOUR_S, WEEK_S = 3600, 7 * 86400
JUMPS = (HOUR_S, -HOUR_S, WEEK_S, -WEEK_S) if os.environ.get("SOAK") else (WEEK_S, -WEEK_S)
FOLLOWED_S = 10
RUN_MS = 15_000


def settled(ground: Ground, api: Api, box: Sandbox, ahead_s: int) -> dict[str, Any]:
    """A sandbox once the service goes by the new clock, as what it tells of its end shows."""

    def look() -> dict[str, Any] | None:
        seen = api.get(box.id)
        assert seen["expiresAt"] is not None, seen
        left_s = seen["expiresAt"] / 1000 - (time.time() + ahead_s)
        return seen if 0 < left_s <= RUN_MS / 1000 + 1 else None

    return eventually(f"the clock to be followed by {ahead_s} s", look, FOLLOWED_S)


@pytest.mark.parametrize("ahead_s", JUMPS)
def test_what_runs_has_the_time_that_it_has_left_and_is_charged_what_it_ran(ground: Ground, ahead_s: int) -> None:
    api = ground.service.api(f"jumps-{ahead_s}")
    asker = Asker(api)
    began = time.monotonic()
    boxes = [api.ready(runtime="base", isolation=one, maxDurationMs=RUN_MS) for one in ("runc", "runsc")]
    paused = api.ready(runtime="base", isolation="runc", maxDurationMs=RUN_MS, ephemeral=False)
    paused.write("/workspace/kept", b"kept")
    paused.pause()
    ticker = boxes[0].background("for n in $(seq 40); do echo $n; sleep 0.1; done; exit 4")
    key = {"Idempotency-Key": f"before-{ahead_s}"}
    wish = {"json": {"runtime": "base", "isolation": "runc", "name": "once"}, "headers": key}
    once = asker.ask("POST", "", 20, **wish).json()["id"]
    url = boxes[0].post("/fs/url", path="/etc/hostname", operation="download")["url"]
    assert httpx.get(url).status_code == 200
    with ground.wall.jumped(ahead_s):
        for box in boxes:
            settled(ground, api, box, ahead_s)
            assert asker.exec(box.id, "echo on").json()["stdout"] == "on\n"
        assert httpx.get(url).status_code == 401
        assert asker.ask("POST", "", 20, **wish).json()["id"] == once
        new = api.ready(runtime="base", isolation="runc", maxDurationMs=RUN_MS)
        assert new.run("echo new") == "new\n"
        done = boxes[0].wait(ticker)
        assert (done["outcome"], done["exitCode"]) == ("exited", 4)
        assert 3_500 < done["durationMs"] < 20_000
        assert paused.resume()["status"] == "ready"
        assert paused.read("/workspace/kept") == b"kept"
        for box in boxes:
            over = eventually("it to end", lambda box=box: _over(api.get(box.id)), RUN_MS / 1000 + 20)
            assert (over["status"], over["reason"]) == ("ended", "max_duration")
            assert RUN_MS - 1500 < over["duration"] < (time.monotonic() - began) * 1000
        assert time.monotonic() - began > RUN_MS / 1000 - 1
        for box in (*boxes, paused, new):
            told = [one["sequence"] for one in happenings(api, box.id)]
            assert all(before + 1 == after for before, after in pairwise(told))
        all_holds(ground, api, asker.ledger)


def _over(seen: dict[str, Any]) -> dict[str, Any] | None:
    return seen if seen["status"] in ("ended", "failed") else None
