"""What clients wish of sandboxes, as rules that Hypothesis puts into any order, and what the model expects of each."""

import base64
import random
from copy import deepcopy
from typing import Any

import httpx
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from tests.chaos import sight
from tests.chaos.lifecycle import KEEPS, MAX_DURATION_MS, Box, Phase, Taken, World
from tests.chaos.sight import COUNTER, now
from tests.chaos.strikes import Insistent, Keyed, Strike
from tests.clients import Api
from tests.services import Service

NOT_READY = "Sandbox is not ready"
TOO_MANY = "Concurrent sandbox limit reached"
TOO_MUCH = "Storage limit reached"
UNKNOWN = "0" * 32
CALM = 5
"""How many wishes come between two kills: to start again takes longer than all of them."""
ISOLATIONS = st.sampled_from(sorted(KEEPS))
MARKS = st.sampled_from(("red", "green", "blue"))
PATHS = st.sampled_from(("a", "b", "deep/c", "artifacts/x", "artifacts/deep/y"))
SIZES = st.sampled_from((0, 1, 5_000, 3_000_000))
VICTIMS = st.sampled_from((("serve",), ("node",), ("serve", "node")))
SITES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("GET", "", {}),
    ("DELETE", "", {}),
    ("PATCH", "", {"name": "mine"}),
    ("POST", "/pause", {}),
    ("POST", "/resume", {}),
    ("POST", "/exec", {"command": "true"}),
    ("GET", "/processes", {}),
    ("GET", "/timeline", {}),
    ("GET", "/fs/read", {"path": "/workspace/a"}),
    ("POST", "/fs/write", {"path": "/workspace/a", "content": ""}),
    ("POST", "/fs/remove", {"path": "/workspace/a"}),
    ("POST", "/checkpoints", {}),
    ("GET", "/checkpoints", {}),
    ("POST", "/artifacts", {"path": "/workspace/a"}),
    ("GET", "/artifacts", {}),
)
"""Ways to ask for something of a sandbox."""

OTHER: dict[str, dict[str, Any]] = {
    "": {"name": "other"},
    "/exec": {"timeout": 19_999},
    "/checkpoints": {"name": "other"},
    "/artifacts": {"contentType": "text/other"},
    "/fs/write": {"mode": 0o600},
}
"""What makes another wish of one."""


def asked(api: Api, method: str, path: str, fields: dict[str, Any]) -> httpx.Response:
    """A call with its fields where the method has them."""
    return api.ask(method, path, **{"params" if method in ("GET", "DELETE") else "json": fields})


def granted(answer: httpx.Response) -> dict[str, Any]:
    """The body of an answer that grants a wish."""
    assert answer.status_code == 200, (answer.status_code, answer.text)
    body: dict[str, Any] = answer.json()
    return body


def refused(answer: httpx.Response, status: int, sentence: str | None = None) -> None:
    """It was refused, in these words where they are given."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    assert sentence in (None, answer.json()["error"]), answer.text


class Wishes(RuleBasedStateMachine):
    """One organisation on a small plan, and somebody of another one."""

    boxes: Bundle[Box] = Bundle("boxes")
    over: Bundle[Box] = Bundle("over")
    checkpoints: Bundle[Taken] = Bundle("checkpoints")

    def __init__(self, service: Service, api: Api, stranger: Api) -> None:
        super().__init__()
        self.service, self.api, self.stranger = service, api, stranger
        self.client = Insistent(service, api)
        self.world = World()
        self.granted: list[Keyed] = []
        self.calm = 0

    # What comes about by itself is waited for.

    def settle(self, box: Box) -> None:
        """Wait until what was wished of a sandbox has come about, and look at what that made of it."""
        if box.phase is Phase.COMING:
            self.api.wait_status(box.id, "ready", "active")
            self.came_up(box)
        elif box.phase is Phase.PAUSING:
            self.api.wait_status(box.id, "paused")
            self.was_paused(box, "user_request")

    def quiet(self, but: Box | None = None) -> None:
        """Wait until nothing is on its way: first what gives room back, so that each change of a sum has one reason."""
        for phase in (Phase.COMING, Phase.PAUSING):
            for box in self.world.boxes:
                if box.phase is phase and box is not but:
                    self.settle(box)

    def came_up(self, box: Box) -> None:
        """A sandbox is ready with a body that is new."""
        box.is_ready(box.asked_at, now())
        sight.inside(self.api, box, new=True)

    def was_paused(self, box: Box, reason: str) -> None:
        """A sandbox is paused; what is stored more than before is what is kept of it."""
        box.is_paused(reason)
        billed = self.api.http.get("/v1/billing").json()["storedBytes"]
        box.kept_bytes = billed - self.world.stored_bytes()
        assert box.kept_bytes > 0, (box, billed, self.world)

    def has_ended(self, box: Box, reason: str) -> None:
        """A sandbox is over, and with it all that ran in it."""
        if box.phase is Phase.READY:
            self.world.salvage(box)
        sight.until_ended(self.api, box)
        box.is_over(reason)

    def into(self, box: Box, path: str, fields: dict[str, Any]) -> httpx.Response | None:
        """The answer of a sandbox to a call that goes into it, None where its state or the plan forbids that."""
        self.quiet()
        if box.phase is Phase.PAUSED and box.auto_resume and self.world.may_run():
            self.wake(box)
        answer, key = self.client.post(path, {"id": box.id, **fields})
        if box.phase is Phase.READY:
            if answer.status_code == 200:
                self.granted.append(Keyed(path, {"id": box.id, **fields}, key, answer.json()))
            return answer
        if box.auto_resume and box.phase is Phase.PAUSED:
            refused(answer, 429, TOO_MANY)
        else:
            refused(answer, 409, NOT_READY)
        return None

    def wake(self, box: Box) -> None:
        """A paused sandbox that resumes by itself does so for whoever calls."""
        box.asked_at = now()
        answer = self.api.call("POST", "/exec", json={"id": box.id, "command": "true"})
        box.finished(answer["processId"], 0)
        self.came_up(box)

    # Making and ending.

    @initialize(target=boxes, isolation=ISOLATIONS, mark=MARKS)
    def begin(self, isolation: str, mark: str) -> Box | MultipleResults[Box]:
        """There is one to begin with, of which there may be checkpoints."""
        return self.create(isolation, True, mark, "pause", False, True)

    @rule(
        target=boxes,
        isolation=ISOLATIONS,
        checkpointed=st.booleans(),
        mark=MARKS,
        on_expiry=st.sampled_from(("end", "pause")),
        auto_resume=st.booleans(),
        wait=st.booleans(),
    )
    def create(
        self, isolation: str, checkpointed: bool, mark: str, on_expiry: str, auto_resume: bool, wait: bool
    ) -> Box | MultipleResults[Box]:
        """Create a sandbox, if the plan lets it be."""
        self.quiet()
        before = now()
        lifecycle = {"onExpiry": on_expiry, "autoResume": auto_resume}
        body = {
            "runtime": "base",
            "isolation": isolation,
            "ephemeral": not checkpointed,
            "env": {"MARK": mark},
            "lifecycle": lifecycle,
        }
        answer, key = self.client.post("", body)
        if not self.world.may_run():
            refused(answer, 429, TOO_MANY)
            return multiple()
        made = granted(answer)
        self.granted.append(Keyed("", body, key, made))
        box = Box(made["id"], isolation, checkpointed, mark, on_expiry, auto_resume, Phase.COMING, before)
        self.world.boxes.append(box)
        if wait:
            self.settle(box)
        return box

    @rule(target=over, box=consumes(boxes))
    def end(self, box: Box) -> Box:
        """End a sandbox, in whatever state it is."""
        if box.commands or box.left_in_folder():  # what comes of these depends on the state
            self.settle(box)
        before = now()
        answer = self.client.delete("", id=box.id)
        assert granted(answer) == {"ok": True}
        if box.phase is Phase.COMING:
            box.ran.begins(box.asked_at, now())
        box.ran.ends(before, now())
        self.has_ended(box, box.reason if box.phase is Phase.OVER and box.reason else "user_request")
        return box

    @rule(box=over)
    def end_again(self, box: Box) -> None:
        """Ending what is over is granted and changes nothing."""
        assert granted(self.client.delete("", id=box.id)) == {"ok": True}

    @rule(box=over)
    def wish_of_the_dead(self, box: Box) -> None:
        """What is over refuses everything but to be read, each in its words."""
        for path, sentence in (
            ("/pause", NOT_READY),
            ("/resume", "Sandbox has ended"),
            ("/checkpoints", NOT_READY if box.checkpointed else sight.NO_CHECKPOINTS),
        ):
            refused(asked(self.api, "POST", path, {"id": box.id}), 409, sentence)
        refused(asked(self.api, "POST", "/exec", {"id": box.id, "command": "true"}), 409, NOT_READY)
        refused(asked(self.api, "PATCH", "", {"id": box.id, "maxDurationMs": 1000}), 409, "Sandbox has ended")
        refused(asked(self.api, "GET", "/fs/list", {"id": box.id}), 409, NOT_READY)
        sight.artifacts(self.api, box)

    # Working in one.

    @rule(box=boxes, code=st.sampled_from((0, 1, 77)))
    def run(self, box: Box, code: int) -> None:
        """Run a command, which is seen in a file as often as it ran."""
        word = f"{len(box.commands)}\n"
        line = f"echo {word.strip()} >> /workspace/log; exit {code}"
        answer = self.into(box, "/exec", {"command": line, "timeout": 20_000})
        if answer is not None:
            told = granted(answer)
            assert (told["outcome"], told["exitCode"]) == ("exited", code), told
            box.finished(told["processId"], code)
            box.inside.files["log"] = box.inside.files.get("log", b"") + word.encode()

    @rule(box=boxes, counts=st.booleans())
    def run_in_background(self, box: Box, counts: bool) -> None:
        """Start something without end: what counts in memory, once in a sandbox, or what only is there."""
        counts = counts and box.inside.counted is None
        answer = self.into(box, "/exec", {"command": COUNTER if counts else "sleep 3600", "background": True})
        if answer is None:
            return
        command = granted(answer)["processId"]
        box.started(command)
        if counts:
            sight.until_counting(self.api, box)
            box.inside.counted, box.inside.counter = 0, command

    @precondition(lambda self: any(box.under_way() for box in self.world.boxes))
    @rule(box=boxes, which=st.integers(0, 9))
    def kill(self, box: Box, which: int) -> None:
        """Kill one of its background commands."""
        self.settle(box)
        under_way = box.under_way()
        if under_way and box.phase is Phase.READY:
            body = {"id": box.id, "processId": under_way[which % len(under_way)]}
            assert granted(asked(self.api, "POST", "/processes/signal", {**body, "signal": "KILL"})) == {"ok": True}
            assert granted(asked(self.api, "POST", "/processes/wait", body))["outcome"] == "cancelled"
            box.cancelled(body["processId"])

    @rule(box=boxes, path=PATHS, seed=st.integers(0, 3), size=SIZES)
    def write(self, box: Box, path: str, seed: int, size: int) -> None:
        """Write a file, new or in place of another."""
        content = random.Random(seed).randbytes(size)
        fields = {"path": f"/workspace/{path}", "content": base64.b64encode(content).decode(), "encoding": "base64"}
        answer = self.into(box, "/fs/write", fields)
        if answer is not None:
            assert granted(answer)["entry"]["size"] == size
            box.inside.files[path] = content

    @rule(box=boxes, path=PATHS, to=PATHS, overwrite=st.booleans())
    def move(self, box: Box, path: str, to: str, overwrite: bool) -> None:
        """Move a file, onto another only where that is wished."""
        self.settle(box)
        if box.phase is not Phase.READY or path == to or "/" in to:
            return
        fields = {"id": box.id, "from": f"/workspace/{path}", "to": f"/workspace/{to}", "overwrite": overwrite}
        answer = asked(self.api, "POST", "/fs/move", fields)
        if path not in box.inside.files:
            refused(answer, 404)
        elif to in box.inside.files and not overwrite:
            refused(answer, 409)
        else:
            granted(answer)
            box.inside.files[to] = box.inside.files.pop(path)

    @rule(box=boxes, path=PATHS)
    def remove(self, box: Box, path: str) -> None:
        """Remove a file."""
        self.settle(box)
        if box.phase is not Phase.READY:
            return
        answer = asked(self.api, "POST", "/fs/remove", {"id": box.id, "path": f"/workspace/{path}"})
        if box.inside.files.pop(path, None) is None:
            refused(answer, 404)
        else:
            granted(answer)

    @rule(box=boxes)
    def look(self, box: Box) -> None:
        """What is in it is what the model says."""
        self.settle(box)
        if box.phase is Phase.READY:
            sight.inside(self.api, box, new=False)

    @rule(box=boxes, path=PATHS, key=st.sampled_from((None, "k", "k/l")))
    def publish(self, box: Box, path: str, key: str | None) -> None:
        """Publish a file, if the plan lets it be kept."""
        fields = {"path": f"/workspace/{path}"} | ({} if key is None else {"key": key})
        answer = self.into(box, "/artifacts", fields)
        content = box.inside.files.get(path)
        key = key or path.rpartition("/")[2]
        if answer is None:
            return
        if content is None:
            refused(answer, 404)
        elif not self.world.may_publish(box, key, content):
            refused(answer, 429, TOO_MUCH)
        else:
            assert granted(answer)["size"] == len(content)
            box.artifacts[key] = content
            sight.artifacts(self.api, box)

    @precondition(lambda self: any(box.artifacts for box in self.world.boxes))
    @rule(box=st.one_of(boxes, over), which=st.integers(0, 9))
    def unpublish(self, box: Box, which: int) -> None:
        """Delete an artifact, alive or not its sandbox; again it is not there."""
        self.settle(box)
        if box.artifacts:
            key = sorted(box.artifacts)[which % len(box.artifacts)]
            assert granted(asked(self.api, "DELETE", "/artifacts", {"id": box.id, "key": key})) == {"ok": True}
            del box.artifacts[key]
            refused(asked(self.api, "DELETE", "/artifacts", {"id": box.id, "key": key}), 404, "Artifact not found")

    # Its time.

    @rule(box=boxes, name=st.sampled_from((None, "first", "second")))
    def change(self, box: Box, name: str | None) -> None:
        """Give it another name."""
        self.settle(box)
        assert granted(asked(self.api, "PATCH", "", {"id": box.id, "name": name}))["name"] == name
        box.name = name

    @rule(box=boxes)
    def extend(self, box: Box) -> None:
        """Have its time count from now."""
        self.settle(box)
        before = now()
        answer = asked(self.api, "PATCH", "", {"id": box.id, "maxDurationMs": MAX_DURATION_MS})
        if box.phase is Phase.OVER:
            refused(answer, 409, "Sandbox has ended")
        elif box.phase is Phase.READY:
            assert before <= granted(answer)["expiresAt"] - MAX_DURATION_MS <= now()
        else:
            assert granted(answer)["expiresAt"] is None

    @rule(box=boxes)
    def let_time_run_out(self, box: Box) -> None:
        """Give it no more time: it ends or is paused, as it was made to."""
        self.quiet()
        if box.phase is not Phase.READY:
            return
        before = now()
        granted(asked(self.api, "PATCH", "", {"id": box.id, "maxDurationMs": 1}))
        if box.on_expiry == "pause" and self.world.may_pause():
            self.api.wait_status(box.id, "paused")
            box.ran.ends(before, now())
            self.was_paused(box, "max_duration")
            granted(asked(self.api, "PATCH", "", {"id": box.id, "maxDurationMs": MAX_DURATION_MS}))
        else:
            self.has_ended(box, "max_duration")
            box.ran.ends(before, now())

    # Pausing.

    @rule(box=boxes, wait=st.booleans())
    def pause(self, box: Box, wait: bool) -> None:
        """Pause it, if the plan lets it be kept; again is fine."""
        self.quiet()
        before = now()
        answer, _ = self.client.post("/pause", {"id": box.id})
        if box.phase is Phase.OVER:
            refused(answer, 409, NOT_READY)
        elif box.phase is Phase.PAUSED:
            granted(answer)
        elif not self.world.may_pause():
            refused(answer, 429, TOO_MUCH)
        else:
            granted(answer)
            box.leaves(Phase.PAUSING, before, now())
            if wait:
                self.settle(box)

    @rule(box=boxes, wait=st.booleans())
    def resume(self, box: Box, wait: bool) -> None:
        """Resume it, if the plan lets it run; again is fine."""
        self.quiet()
        before = now()
        answer, _ = self.client.post("/resume", {"id": box.id})
        if box.phase is Phase.OVER:
            refused(answer, 409, "Sandbox has ended")
        elif box.phase is Phase.READY:
            granted(answer)
        elif not self.world.may_run():
            refused(answer, 429, TOO_MANY)
        else:
            granted(answer)
            box.phase, box.asked_at = Phase.COMING, before
            if wait:
                self.settle(box)

    @precondition(lambda self: any(box.phase in (Phase.COMING, Phase.PAUSING) for box in self.world.boxes))
    @rule(box=boxes)
    def wish_in_a_hurry(self, box: Box) -> None:
        """Pause what comes up, resume what is being paused: granted where that has just come about, else refused."""
        self.quiet(but=box)
        before = now()
        if box.phase is Phase.PAUSING:
            answer = asked(self.api, "POST", "/resume", {"id": box.id})
            if answer.status_code == 409:
                refused(answer, 409, "Sandbox is being paused")
            else:
                granted(answer)
                box.is_paused("user_request")
                box.phase, box.asked_at = Phase.COMING, before
        elif box.phase is Phase.COMING:
            answer = asked(self.api, "POST", "/pause", {"id": box.id})
            if answer.status_code == 409:
                refused(answer, 409, NOT_READY)
            elif self.world.may_pause():
                granted(answer)
                box.is_ready(box.asked_at, now())
                box.leaves(Phase.PAUSING, before, now())
            else:
                refused(answer, 429, TOO_MUCH)

    # Checkpoints.

    @rule(target=checkpoints, box=boxes, memory=st.booleans())
    def checkpoint(self, box: Box, memory: bool) -> Taken | MultipleResults[Taken]:
        """Take a checkpoint of a ready sandbox that may have some, if the plan lets it be kept."""
        self.quiet()
        body = {"id": box.id, "memory": memory}
        answer, key = self.client.post("/checkpoints", body)
        if not box.checkpointed:
            refused(answer, 409, sight.NO_CHECKPOINTS)
        elif box.phase is not Phase.READY:
            refused(answer, 409, NOT_READY)
        elif not self.world.may_keep():
            refused(answer, 429, TOO_MUCH)
        else:
            told = granted(answer)
            self.granted.append(Keyed("/checkpoints", body, key, told))
            keeps = KEEPS[box.isolation] if memory else "files"
            assert (told["keeps"], told["sandboxId"]) == (keeps, box.id), told
            inside = deepcopy(box.inside) if keeps == "memory" else box.inside.without_memory()
            taken = Taken(told["id"], box, keeps, told["bytes"], inside)
            self.world.taken.append(taken)
            sight.inside(self.api, box, new=False)
            return taken
        return multiple()

    @rule(taken=checkpoints)
    def go_back(self, taken: Taken) -> None:
        """Have a checkpoint's sandbox go on from it; of one that is over another has to be begun."""
        self.quiet()
        box, before = taken.of, now()
        answer, _ = self.client.post("/checkpoints/restore", {"checkpointId": taken.id, "id": box.id})
        if box.phase is Phase.OVER:
            refused(answer, 409, "Sandbox has ended; create one from the checkpoint")
        elif box.phase is Phase.PAUSED and not self.world.may_run():
            refused(answer, 429, TOO_MANY)
        else:
            granted(answer)
            box.leaves(Phase.COMING, before, now())
            box.asked_at = before
            box.goes_back(taken.inside)
            self.settle(box)

    @rule(target=boxes, taken=checkpoints, count=st.integers(1, 3), mark=MARKS)
    def fork(self, taken: Taken, count: int, mark: str) -> MultipleResults[Box]:
        """Begin sandboxes from a checkpoint, all or none."""
        self.quiet()
        before = now()
        body = {"fromCheckpoint": taken.id, "count": count, "ephemeral": False, "env": {"MARK": mark}}
        answer, key = self.client.post("", body)
        if not self.world.may_run(count):
            refused(answer, 429, TOO_MANY)
            return multiple()
        told = granted(answer)
        self.granted.append(Keyed("", body, key, told))
        made = [
            Box(item["id"], taken.of.isolation, True, mark, "end", False, Phase.COMING, before, deepcopy(taken.inside))
            for item in told["items"]
        ]
        assert len(made) == count
        self.world.boxes += made
        self.quiet()
        return multiple(*made)

    @rule(taken=consumes(checkpoints))
    def forget(self, taken: Taken) -> None:
        """Delete a checkpoint: what began from it stays, and nothing begins from it any more."""
        self.quiet()
        assert granted(asked(self.api, "DELETE", "/checkpoints", {"checkpointId": taken.id})) == {"ok": True}
        self.world.taken.remove(taken)
        gone = "Checkpoint not found"
        refused(asked(self.api, "DELETE", "/checkpoints", {"checkpointId": taken.id}), 404, gone)
        refused(asked(self.api, "POST", "/checkpoints/restore", {"checkpointId": taken.id}), 404, gone)
        refused(asked(self.api, "POST", "", {"fromCheckpoint": taken.id}), 404, gone)

    # Again, and by others.

    @precondition(lambda self: self.granted)
    @rule(which=st.integers(0, 99), other=st.booleans())
    def wish_under_the_same_key(self, which: int, other: bool) -> None:
        """The same wish again has the same answer and makes nothing; another one is refused."""
        wish = self.granted[which % len(self.granted)]
        body = {**wish.body, **OTHER[wish.path]} if other else wish.body
        answer = self.api.ask("POST", wish.path, json=body, headers={"Idempotency-Key": wish.key})
        if other:
            refused(answer, 409, "This Idempotency-Key was used with another request")
        else:
            assert granted(answer) == wish.answer
            assert answer.headers["Idempotent-Replayed"] == "true"

    @rule(box=st.one_of(boxes, over), site=st.sampled_from(SITES))
    def wish_of_another_s(self, box: Box, site: tuple[str, str, dict[str, Any]]) -> None:
        """Somebody else's sandbox is one that never was."""
        method, path, fields = site
        for api, id_ in ((self.stranger, box.id), (self.api, UNKNOWN)):
            refused(asked(api, method, path, {"id": id_, **fields}), 404, "Sandbox session not found")
        assert self.stranger.list()["items"] == []

    @rule(taken=checkpoints)
    def begin_from_another_s(self, taken: Taken) -> None:
        """Somebody else's checkpoint is one that never was."""
        for api, id_ in ((self.stranger, taken.id), (self.api, UNKNOWN)):
            for method, path, name in (
                ("POST", "", "fromCheckpoint"),
                ("POST", "/checkpoints/restore", "checkpointId"),
                ("DELETE", "/checkpoints", "checkpointId"),
            ):
                refused(asked(api, method, path, {name: id_}), 404, "Checkpoint not found")

    # Kills.

    @precondition(lambda self: self.calm >= CALM and self.world.alive())
    @rule(victims=VICTIMS)
    def restart(self, victims: tuple[str, ...]) -> None:
        """kill -9 of services between two wishes."""
        self.calm = 0
        self.service.restart(*victims)

    @precondition(lambda self: self.calm >= CALM and self.world.alive())
    @rule(victims=VICTIMS, after_ms=st.sampled_from((0, 30, 100, 300)))
    def strike_under_the_next_wish(self, victims: tuple[str, ...], after_ms: int) -> None:
        """kill -9 of services while the next wish is under way."""
        self.calm = 0
        self.client.armed = Strike(victims, after_ms / 1000)

    # What always holds, and the end.

    @invariant()
    def all_agrees(self) -> None:
        """What a client can see is what the model says."""
        sight.organisation(self.api, self.world)
        self.calm += 1

    def teardown(self) -> None:
        """All ends, is told in full, and nothing is kept that nobody asked for."""
        self.client.armed = None
        self.quiet()
        for box in self.world.alive():
            self.end(box)
        for box in self.world.boxes:
            sight.artifacts(self.api, box)
            sight.record(self.api, box)
        for taken in list(self.world.taken):
            self.forget(taken)
        sight.organisation(self.api, self.world)
