"""Holds what the API says of an organisation against the model of it."""

import hashlib
import time
from collections import Counter
from typing import Any

from boxkeep_server.model.events import QUIET
from tests.chaos.lifecycle import CONCURRENT, KEEPS, SHOWN, Box, Command, Phase, Story, World
from tests.clients import Api, eventually, server_sent

COUNTER = """mkfifo /dev/shm/ask /dev/shm/answer; n=0
while :; do read -r _ < /dev/shm/ask || continue; n=$((n+1)); echo $n > /dev/shm/answer; done # the-counter"""
LOOK = """hostname; echo "$MARK"; cat /run/boxkeep/generation; pgrep -fc 'the-count[e]r'
if [ "$1" = counts ]; then echo > /dev/shm/ask; cat /dev/shm/answer; else echo; fi
cd /workspace && find . -type f -printf '%P\\n' | sort | xargs -r sha256sum"""
_STEADY = (Phase.READY, Phase.PAUSED, Phase.OVER)


def now() -> int:
    """The host's clock, which is the service's, in epoch ms."""
    return int(time.time() * 1000)


def pages(api: Api, path: str, **query: Any) -> list[dict[str, Any]]:
    """All items of a list, read in small pages."""
    items: list[dict[str, Any]] = []
    more: dict[str, Any] = {}
    while True:
        page = api.call("GET", path, params={**query, **more, "limit": 3})
        items += page["items"]
        if page["nextCursor"] is None:
            return items
        more = {"cursor": page["nextCursor"]}


def story(api: Api, box: Box) -> Story:
    """A sandbox's timeline."""
    items: list[dict[str, Any]] = []
    after = 0
    while after is not None:
        page = api.call("GET", "/timeline", params={"id": box.id, "after": after, "limit": 100})
        items += page["items"]
        after = page["nextAfter"]
    return Story(items)


def until_ended(api: Api, box: Box) -> None:
    """Wait until a sandbox has ended."""
    eventually(f"{box} to end", lambda: api.get(box.id)["status"] == "ended", 60)


def came_back(api: Api, box: Box) -> bool:
    """Whether a sandbox that was to go back has a machine; else it is paused with what it had."""

    def look() -> str | None:
        status: str = api.get(box.id)["status"]
        assert status not in ("ending", "ended", "failed"), box
        return status if status in ("ready", "active", "paused") else None

    return eventually(f"{box} to go back", look, 120) != "paused"


def until_counting(api: Api, box: Box) -> None:
    """Wait until what counts in memory can be asked."""
    line = "until test -p /dev/shm/answer; do sleep 0.02; done"
    answer = api.call("POST", "/exec", json={"id": box.id, "command": line, "timeout": 20_000})
    assert answer["exitCode"] == 0, answer
    box.finished(answer["processId"], 0)


def organisation(api: Api, world: World) -> None:
    """List and reads agree with the model and with each other; so do the sums of the plan, while nothing is on its
    way."""
    items = pages(api, "")
    assert {item["id"] for item in items} == {box.id for box in world.boxes}
    assert items == sorted(items, key=lambda item: (item["createdAt"], item["id"]), reverse=True)
    listed = {item["id"]: item for item in items}
    for box in world.boxes:
        _read(api, box, listed[box.id])
    for box in world.alive():
        _commands(api, box)
    if all(box.phase in _STEADY for box in world.boxes):
        _sums(api, world)
    _usage(api, world)


def _read(api: Api, box: Box, listed: dict[str, Any]) -> None:
    assert listed["status"] in SHOWN[box.phase], (box, listed)
    if box.phase not in _STEADY:
        return
    seen = api.get(box.id)
    assert seen["status"] in SHOWN[box.phase], (box, seen)
    same = listed.keys() - {"status"}
    assert {name: seen[name] for name in same} == {name: listed[name] for name in same}
    assert (seen["reason"], seen["name"]) == (box.reason, box.name), (box, seen)
    assert seen["isolation"] == box.isolation or (seen["isolation"] is None and not box.generations), (box, seen)
    assert seen["envNames"] == ["MARK"]
    assert (seen["expiresAt"] is not None) == (box.phase is Phase.READY), seen
    assert (seen["duration"] is not None) == (box.phase is Phase.OVER), seen
    assert box.phase is Phase.OVER or seen["pauseKeeps"] == KEEPS[box.isolation], seen
    kept = {"count": len(box.artifacts), "bytes": sum(map(len, box.artifacts.values()))} if box.artifacts else None
    told = seen["artifacts"]
    assert (told and {name: told[name] for name in ("count", "bytes")}) == kept, (box, seen)


def _commands(api: Api, box: Box) -> None:
    told = {
        item["processId"]: Command(item["background"], item["outcome"], item["exitCode"])
        for item in pages(api, "/processes", id=box.id)
    }
    assert told == box.commands, (box, told, box.commands)


def _sums(api: Api, world: World) -> None:
    billing = api.http.get("/v1/billing").json()
    assert (billing["pausedSandboxes"], billing["storedBytes"]) == (world.paused(), world.stored_bytes()), world
    counted = sum(item["status"] not in ("paused", "ending", "ended", "failed") for item in pages(api, ""))
    assert counted == world.counted() <= CONCURRENT
    assert {item["id"] for item in pages(api, "/checkpoints")} == {one.id for one in world.taken}


def _usage(api: Api, world: World) -> None:
    """What is told has run lies within what the client has seen of it."""
    asked = now()
    usage = api.http.get("/v1/usage", params={"limit": 1000}).json()
    answered = now()
    told = Counter({item["id"]: item["runningMs"] for item in usage["sandboxes"]})
    assert sum(told.values()) == usage["runningMs"] == sum(month["runningMs"] for month in usage["months"])
    for box in world.boxes:
        if box.phase in _STEADY:
            least, most = box.ran.within(asked, answered)
            assert least <= told[box.id] <= most, (box, least, told[box.id], most)


def inside(api: Api, box: Box, *, new: bool) -> None:
    """Names, environment, memory and files of a ready sandbox are what the model says; it counts on by one. A body
    that is `new` has a generation that none before it had."""
    word = "counts" if box.inside.counted is not None else "stands"
    body = {"id": box.id, "command": "bash", "args": ["-c", LOOK, "look", word], "timeout": 20_000}
    answer = api.call("POST", "/exec", json=body)
    box.finished(answer["processId"], 0)
    assert (answer["outcome"], answer["exitCode"]) == ("exited", 0), (box, answer)
    hostname, mark, generation, counters, counted, *sums = answer["stdout"].splitlines()
    assert (hostname, mark) == (f"sandbox-{box.id[:8]}", box.mark), (box, answer["stdout"])
    if box.inside.counted is not None:
        box.inside.counted += 1
    wanted = ("0", "") if box.inside.counted is None else ("1", str(box.inside.counted))
    assert (counters, counted) == wanted, (box, box.inside.counted, answer["stdout"])
    assert new == (generation not in box.generations), (box, generation, box.generations)
    box.generations.add(generation)
    assert sums == [f"{_sum(content)}  {path}" for path, content in sorted(box.inside.files.items())], (box, sums)


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def artifacts(api: Api, box: Box) -> None:
    """A sandbox has exactly these artifacts, alive or not, and their bytes are right."""
    told = {item["key"]: (item["size"], item["sha256"]) for item in pages(api, "/artifacts", id=box.id)}
    assert told == {key: (len(content), _sum(content)) for key, content in box.artifacts.items()}, (box, told)
    for key, content in box.artifacts.items():
        assert api.ask("GET", "/artifacts/download", params={"id": box.id, "key": key}).content == content, (box, key)


def record(api: Api, box: Box) -> None:
    """Of a sandbox that is over: steps and commands are told once each, without gaps and legally; the stream has what
    the timeline has; what it ran is the sum of its spans."""
    told = story(api, box)
    assert (told.gaps(), told.illegal()) == ([], []), (box, told.items)
    _commands(api, box)
    wanted = Counter(dict.fromkeys(((one, None) for one in box.commands), 1))
    wanted += Counter({(one, command.outcome): 1 for one, command in box.commands.items()})
    assert told.commands() == wanted, (box, told.commands())
    with api.http.stream("GET", "/v1/sandboxes/events", params={"id": box.id}) as response:
        streamed = [data["sequence"] for _, data in server_sent(response) if "sequence" in data]
    assert streamed == [item["sequence"] for item in told.items if item["type"] not in QUIET], box
    usage = api.http.get("/v1/usage", params={"limit": 1000}).json()["sandboxes"]
    ran = {item["id"]: item["runningMs"] for item in usage}.get(box.id, 0)
    assert ran == told.ran_ms(now()) == api.get(box.id)["duration"], (box, ran, told.items)
