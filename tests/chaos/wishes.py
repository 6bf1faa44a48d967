"""What clients wish of sandboxes, as rules that Hypothesis puts into any order, and what the model expects of each."""

import base64
import random
from collections.abc import Callable
from copy import deepcopy

from hypothesis import event
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from tests.chaos import sight
from tests.chaos.lifecycle import KEEPS, MAX_DURATION_MS, Box, Phase, Taken
from tests.chaos.sight import COUNTER, now
from tests.chaos.stage import (
    NOT_READY,
    TOO_MANY,
    TOO_MUCH,
    Stage,
    about_a_box,
    about_a_checkpoint,
    asked,
    granted,
    refused,
)
from tests.chaos.strikes import Keyed, Strike

CALM = 5
"""How many wishes come between two kills: to start again takes longer than all of them."""
MOST_ALIVE = 7
ISOLATIONS = st.sampled_from(sorted(KEEPS))
MARKS = st.sampled_from(("red", "green", "blue"))
PATHS = st.sampled_from(("a", "b", "deep/c", "artifacts/x", "artifacts/deep/y"))
SIZES = st.sampled_from((0, 1, 5_000, 3_000_000))
VICTIMS = st.sampled_from((("serve",), ("node",), ("serve", "node")))


def is_in(*phases: Phase) -> Callable[[Box], bool]:
    """Whether a sandbox is in one of these phases."""
    return lambda box: box.phase in phases


alive = is_in(Phase.COMING, Phase.READY, Phase.PAUSING, Phase.PAUSED)
ready = is_in(Phase.COMING, Phase.READY)


class Wishes(Stage):
    """All that is wished. Each rule waits until what was on its way is there, unless it is about just that."""

    calm = 0

    # Making and ending.

    @initialize(mark=MARKS)
    def begin(self, mark: str) -> None:
        """There is one of each isolation to begin with, which counts in memory and has a checkpoint."""
        for isolation in KEEPS:
            self.create(isolation, checkpointed=True, mark=mark, on_expiry="pause", auto_resume=False, wait=True)
        for box in self.world.alive():
            self.run_in_background(box)
            self.checkpoint(box, memory=True)

    @precondition(lambda self: len(self.world.alive()) < MOST_ALIVE)
    @rule(
        isolation=ISOLATIONS,
        checkpointed=st.booleans(),
        mark=MARKS,
        on_expiry=st.sampled_from(("end", "pause")),
        auto_resume=st.booleans(),
        wait=st.booleans(),
    )
    def create(
        self, isolation: str, checkpointed: bool, mark: str, on_expiry: str, auto_resume: bool, wait: bool
    ) -> None:
        """Create a sandbox, if the plan lets it be."""
        self.quiet()
        before = now()
        body = {
            "runtime": "base",
            "isolation": isolation,
            "ephemeral": not checkpointed,
            "env": {"MARK": mark},
            "lifecycle": {"onExpiry": on_expiry, "autoResume": auto_resume},
        }
        answer, key = self.client.post("", body)
        if not self.world.may_run():
            refused(answer, 429, TOO_MANY)
            return
        made = granted(answer)
        self.granted.append(Keyed("", body, key, made))
        box = Box(self.world.label("box"), made["id"], isolation, checkpointed, mark, on_expiry, auto_resume, before)
        self.world.boxes.append(box)
        self.belongs_to_nobody_else(box)
        if wait:
            self.settle(box)

    @precondition(lambda self: len(self.world.alive()) > 1)
    @about_a_box(alive)
    def end(self, box: Box) -> None:
        """End a sandbox, in whatever state it is; again is fine."""
        if box.under_way() or box.left_in_folder():  # what comes of these depends on the state
            self.settle(box)
        before = now()
        assert granted(self.client.delete("", id=box.id)) == {"ok": True}
        if box.phase is Phase.COMING:
            box.ran.begins(box.asked_at, now())
        box.ran.ends(before, now())
        self.has_ended(box, "user_request")
        assert granted(self.client.delete("", id=box.id)) == {"ok": True}

    @precondition(lambda self: len(self.world.alive()) > 1)
    @about_a_box(ready, name=st.sampled_from((None, "first", "second")), soon=st.booleans())
    def change_its_time(self, box: Box, name: str | None, soon: bool) -> None:
        """Have its time count anew under another name; or give it none, so that it ends or is paused as it should."""
        self.quiet()
        before = now()
        told = granted(asked(self.api, "PATCH", "", id=box.id, name=name, maxDurationMs=MAX_DURATION_MS))
        assert (told["name"], before <= told["expiresAt"] - MAX_DURATION_MS <= now()) == (name, True), told
        box.name = name
        if soon:
            self.let_time_run_out(box)

    def let_time_run_out(self, box: Box) -> None:
        """Give it no more time."""
        before = now()
        granted(asked(self.api, "PATCH", "", id=box.id, maxDurationMs=1))
        if box.on_expiry == "pause" and self.world.may_pause():
            self.api.wait_status(box.id, "paused")
            box.ran.ends(before, now())
            self.was_paused(box, "max_duration")
            granted(asked(self.api, "PATCH", "", id=box.id, maxDurationMs=MAX_DURATION_MS))
        else:
            self.has_ended(box, "max_duration")
            box.ran.ends(before, now())

    # Working in one.

    @about_a_box(lambda box: ready(box) or box.sleeps, code=st.sampled_from((0, 1, 77)))
    def run(self, box: Box, code: int) -> None:
        """Run a command, which is seen in a file as often as it ran; one that is paused may wake up for it."""
        self.quiet()
        if box.phase is Phase.PAUSED and not self.world.may_run():
            refused(asked(self.api, "POST", "/exec", id=box.id, command="true"), 429, TOO_MANY)
            return
        if box.phase is Phase.PAUSED:
            self.wake(box)
        word = f"{len(box.commands)}\n"
        line = f"echo {word.strip()} >> /workspace/log; exit {code}"
        told = granted(self.into(box, "/exec", command=line, timeout=20_000))
        assert (told["outcome"], told["exitCode"]) == ("exited", code), told
        box.finished(told["processId"], code)
        box.inside.files["log"] = box.inside.files.get("log", b"") + word.encode()

    @about_a_box(ready)
    def run_in_background(self, box: Box) -> None:
        """Start something without end: what counts in memory, or where there is one what only is there."""
        self.quiet()
        counts = box.inside.counted is None
        told = granted(self.into(box, "/exec", command=COUNTER if counts else "sleep 3600", background=True))
        box.started(told["processId"])
        if counts:
            sight.until_counting(self.api, box)
            box.inside.counted, box.inside.counter = 0, told["processId"]

    @about_a_box(lambda box: ready(box) and bool(box.under_way()), which=st.integers(0, 9))
    def kill(self, box: Box, which: int) -> None:
        """Kill one of its background commands."""
        self.settle(box)
        command = box.under_way()[which % len(box.under_way())]
        told = asked(self.api, "POST", "/processes/signal", id=box.id, processId=command, signal="KILL")
        assert granted(told) == {"ok": True}
        told = asked(self.api, "POST", "/processes/wait", id=box.id, processId=command)
        assert granted(told)["outcome"] == "cancelled"
        box.cancelled(command)

    @about_a_box(ready, path=PATHS, seed=st.integers(0, 3), size=SIZES)
    def write(self, box: Box, path: str, seed: int, size: int) -> None:
        """Write a file, new or in place of another."""
        content = random.Random(seed).randbytes(size)
        text = base64.b64encode(content).decode()
        told = granted(self.into(box, "/fs/write", path=f"/workspace/{path}", content=text, encoding="base64"))
        assert told["entry"]["size"] == size
        box.inside.files[path] = content

    @about_a_box(ready, path=PATHS, to=st.sampled_from((None, "a", "b", "c")), overwrite=st.booleans())
    def move_or_remove(self, box: Box, path: str, to: str | None, overwrite: bool) -> None:
        """Move a file, onto another only where that is wished, or remove it."""
        self.settle(box)
        files, whole = box.inside.files, f"/workspace/{path}"
        if to is None:
            answer = asked(self.api, "POST", "/fs/remove", id=box.id, path=whole)
        else:
            fields = {"from": whole, "to": f"/workspace/{to}", "overwrite": overwrite}
            answer = asked(self.api, "POST", "/fs/move", id=box.id, **fields)
        if path not in files:
            refused(answer, 404)
        elif to in files and not overwrite and to != path:
            refused(answer, 409)
        elif to != path:
            granted(answer)
            moved = files.pop(path)
            files.update({} if to is None else {to: moved})

    @about_a_box(ready, path=PATHS, key=st.sampled_from((None, "k", "k/l")), kept=st.booleans())
    def publish(self, box: Box, path: str, key: str | None, kept: bool) -> None:
        """Publish a file, if the plan lets it be kept, and perhaps take that back."""
        self.quiet()
        more = {} if key is None else {"key": key}
        answer = self.into(box, "/artifacts", path=f"/workspace/{path}", **more)
        content, key = box.inside.files.get(path), key or path.rpartition("/")[2]
        if content is None:
            refused(answer, 404)
        elif not self.world.may_publish(box, key, content):
            refused(answer, 429, TOO_MUCH)
        else:
            assert granted(answer)["size"] == len(content)
            box.artifacts[key] = content
            sight.artifacts(self.api, box)
            if not kept:
                assert granted(asked(self.api, "DELETE", "/artifacts", id=box.id, key=key)) == {"ok": True}
                del box.artifacts[key]
                refused(asked(self.api, "DELETE", "/artifacts", id=box.id, key=key), 404, "Artifact not found")

    # Pausing.

    @about_a_box(alive, wait=st.booleans())
    def pause_or_resume(self, box: Box, wait: bool) -> None:
        """Pause what is ready, and resume what is paused."""
        self.quiet()
        if box.phase is Phase.READY:
            self.pause(box)
        else:
            self.resume(box)
        if wait:
            self.settle(box)

    def pause(self, box: Box) -> None:
        """Pause it, if the plan lets it be kept."""
        before = now()
        answer, _ = self.client.post("/pause", {"id": box.id})
        if not self.world.may_pause():
            refused(answer, 429, TOO_MUCH)
            return
        granted(answer)
        box.leaves(Phase.PAUSING, before, now())

    def resume(self, box: Box) -> None:
        """Resume it, if the plan lets it run."""
        before = now()
        answer, _ = self.client.post("/resume", {"id": box.id})
        if not self.world.may_run():
            refused(answer, 429, TOO_MANY)
            return
        granted(answer)
        box.phase, box.asked_at = Phase.COMING, before

    @about_a_box(is_in(Phase.COMING, Phase.PAUSING))
    def wish_in_a_hurry(self, box: Box) -> None:
        """Pause what comes up, resume what is being paused: granted where that has just come about, else refused."""
        self.quiet(but=box)
        before = now()
        if box.phase is Phase.PAUSING:
            answer = asked(self.api, "POST", "/resume", id=box.id)
            if answer.status_code == 200:
                box.is_paused("user_request")
                box.phase, box.asked_at = Phase.COMING, before
            else:
                refused(answer, 409, "Sandbox is being paused")
            return
        answer = asked(self.api, "POST", "/pause", id=box.id)
        if answer.status_code == 200:
            box.is_ready(box.asked_at, now())
            assert self.world.may_pause()
            box.leaves(Phase.PAUSING, before, now())
        elif answer.status_code == 429:
            refused(answer, 429, TOO_MUCH)
        else:
            refused(answer, 409, NOT_READY)

    # Checkpoints.

    @about_a_box(lambda box: ready(box) and box.checkpointed, memory=st.booleans())
    def checkpoint(self, box: Box, memory: bool) -> None:
        """Take a checkpoint, if the plan lets it be kept; the sandbox goes on."""
        self.quiet()
        answer = self.into(box, "/checkpoints", memory=memory)
        if not self.world.may_keep():
            refused(answer, 429, TOO_MUCH)
            return
        told = granted(answer)
        keeps = KEEPS[box.isolation] if memory else "files"
        assert (told["keeps"], told["sandboxId"]) == (keeps, box.id), told
        inside = deepcopy(box.inside) if keeps == "memory" else box.inside.without_memory()
        self.world.taken.append(Taken(self.world.label("taken"), told["id"], box, keeps, told["bytes"], inside))
        sight.inside(self.api, box, new=False)

    @about_a_checkpoint(lambda _: True, forks=st.sampled_from((0, 0, 1, 2, 3)), mark=MARKS)
    def begin_from(self, taken: Taken, forks: int, mark: str) -> None:
        """Have a checkpoint's sandbox go back to it, or begin others from it."""
        self.quiet()
        if forks == 0 and alive(taken.of):
            self.go_back(taken)
        else:
            self.fork(taken, max(1, forks), mark)

    def go_back(self, taken: Taken) -> None:
        """Have a checkpoint's sandbox go on from it. Where memory does not come up, a thing of the runtime's, it is
        paused with what it had."""
        box, before = taken.of, now()
        answer, _ = self.client.post("/checkpoints/restore", {"checkpointId": taken.id, "id": box.id})
        if box.phase is Phase.PAUSED and not self.world.may_run():
            refused(answer, 429, TOO_MANY)
            return
        granted(answer)
        box.leaves(Phase.COMING, before, now())
        box.asked_at = before
        if sight.came_back(self.api, box):
            box.goes_back(taken.inside)
            self.settle(box)
        else:
            assert taken.keeps == "memory", taken
            self.was_paused(box, "boot_failed")
            event("memory that does not come up: the sandbox was paused with what it had")

    def fork(self, taken: Taken, count: int, mark: str) -> None:
        """Begin sandboxes from a checkpoint, all or none, alive or not its own."""
        before = now()
        body = {"fromCheckpoint": taken.id, "count": count, "ephemeral": False, "env": {"MARK": mark}}
        answer, key = self.client.post("", body)
        if not self.world.may_run(count):
            refused(answer, 429, TOO_MANY)
            return
        told = granted(answer)
        self.granted.append(Keyed("", body, key, told))
        assert len(told["items"]) == count
        for item in told["items"]:
            label = self.world.label("box")
            box = Box(label, item["id"], taken.of.isolation, True, mark, "end", False, before, deepcopy(taken.inside))
            self.world.boxes.append(box)
        self.quiet()

    @about_a_checkpoint(lambda _: True)
    def forget(self, taken: Taken) -> None:
        """Delete a checkpoint: what began from it stays, and nothing begins from it any more."""
        self.quiet()
        assert granted(asked(self.api, "DELETE", "/checkpoints", checkpointId=taken.id)) == {"ok": True}
        self.world.taken.remove(taken)
        self.never_was(taken)

    more_pauses, more_checkpoints, more_beginnings = pause_or_resume, checkpoint, begin_from
    """What matters most is wished twice as often as the rest."""

    # Kills.

    @precondition(lambda self: self.calm >= CALM)
    @rule(victims=VICTIMS, after_ms=st.sampled_from((None, 0, 30, 100, 300)))
    def strike(self, victims: tuple[str, ...], after_ms: int | None) -> None:
        """kill -9 of services, at once or while the next wish is under way."""
        self.calm = 0
        if after_ms is None:
            self.service.restart(*victims)
        else:
            self.client.armed = Strike(victims, after_ms / 1000)

    # What always holds, and the end.

    @invariant()
    def all_agrees(self) -> None:
        """What a client can see is what the model says."""
        sight.organisation(self.api, self.world)
        self.calm += 1

    def teardown(self) -> None:
        """All goes back where it can, is paused and resumed; then it ends and is told in full, and nothing is kept."""
        self.client.armed = None
        self.quiet()
        for box in self.world.alive()[:2]:
            if box.phase is Phase.READY and box.checkpointed:
                self.checkpoint(box, memory=False)
                self.run_in_background(box)
        for taken in self.world.taken[-3:]:
            if alive(taken.of):
                self.go_back(taken)
        for box in self.world.alive():
            self.pause_or_resume(box, wait=True)
            self.pause_or_resume(box, wait=True)
        for box in self.world.alive():
            self.end(box)
        for box in self.world.boxes:
            sight.artifacts(self.api, box)
            sight.record(self.api, box)
        for wish in self.granted:
            self.wished_again(wish)
        for taken in list(self.world.taken):
            self.forget(taken)
        sight.organisation(self.api, self.world)
