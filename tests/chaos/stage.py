"""What rules about sandboxes stand on: one organisation with its model, the way to its API, and choosing by state."""

from collections.abc import Callable
from typing import Any, TypeVar

import httpx
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.chaos import sight
from tests.chaos.lifecycle import Box, Phase, Taken, World
from tests.chaos.sight import now
from tests.chaos.strikes import Insistent, Keyed
from tests.clients import Api
from tests.services import Service

NOT_READY = "Sandbox is not ready"
TOO_MANY = "Concurrent sandbox limit reached"
TOO_MUCH = "Storage limit reached"
NO_CHECKPOINTS = "Sandbox has no checkpoints: create it with ephemeral false, or storage.workspace checkpointed"
UNKNOWN = "0" * 32
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

T = TypeVar("T", Box, Taken)
Rule = Callable[..., None]


class Stage(RuleBasedStateMachine):
    """One organisation on a small plan, and somebody of another one."""

    def __init__(self, service: Service, api: Api, stranger: Api) -> None:
        super().__init__()
        self.service, self.api, self.stranger = service, api, stranger
        self.client = Insistent(service, api)
        self.world = World()
        self.granted: list[Keyed] = []

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
        self.refuses(box)

    def has_ended(self, box: Box, reason: str) -> None:
        """A sandbox is over, and with it all that ran in it."""
        if box.phase is Phase.READY:
            self.world.salvage(box)
        sight.until_ended(self.api, box)
        box.is_over(reason)
        self.refuses(box)

    def refuses(self, box: Box) -> None:
        """What is paused or over refuses what its state forbids, each in its words."""
        over = box.phase is Phase.OVER
        body = {"id": box.id}
        sentence = NOT_READY if box.checkpointed else NO_CHECKPOINTS
        refused(asked(self.api, "POST", "/checkpoints", **body), 409, sentence)
        if over:
            refused(asked(self.api, "POST", "/pause", **body), 409, NOT_READY)
            refused(asked(self.api, "POST", "/resume", **body), 409, "Sandbox has ended")
            refused(asked(self.api, "PATCH", "", **body, maxDurationMs=1000), 409, "Sandbox has ended")
        if over or not box.auto_resume:
            refused(asked(self.api, "POST", "/exec", **body, command="true"), 409, NOT_READY)
            refused(asked(self.api, "GET", "/fs/list", **body), 409, NOT_READY)
            refused(asked(self.api, "POST", "/artifacts", **body, path="/workspace/a"), 409, NOT_READY)
        for taken in self.world.taken:
            if over and taken.of is box:
                answer = asked(self.api, "POST", "/checkpoints/restore", checkpointId=taken.id)
                refused(answer, 409, "Sandbox has ended; create one from the checkpoint")
        sight.artifacts(self.api, box)

    def wake(self, box: Box) -> None:
        """A paused sandbox that resumes by itself does so for whoever calls."""
        box.asked_at = now()
        answer = self.api.call("POST", "/exec", json={"id": box.id, "command": "true"})
        box.finished(answer["processId"], 0)
        self.came_up(box)

    def belongs_to_nobody_else(self, box: Box) -> None:
        """To another organisation it is as a sandbox that never was."""
        for method, path, fields in SITES:
            for api, id_ in ((self.stranger, box.id), (self.api, UNKNOWN)):
                refused(asked(api, method, path, id=id_, **fields), 404, "Sandbox session not found")
        assert self.stranger.list()["items"] == []

    def never_was(self, taken: Taken) -> None:
        """A checkpoint that is deleted, or another organisation's, is one that never was."""
        for api, id_ in ((self.stranger, taken.id), (self.api, taken.id), (self.api, UNKNOWN)):
            for method, path, name in (
                ("POST", "", "fromCheckpoint"),
                ("POST", "/checkpoints/restore", "checkpointId"),
                ("DELETE", "/checkpoints", "checkpointId"),
            ):
                refused(asked(api, method, path, **{name: id_}), 404, "Checkpoint not found")

    def wished_again(self, wish: Keyed) -> None:
        """The same wish again has the same answer and makes nothing; another one under its key is refused."""
        headers = {"Idempotency-Key": wish.key}
        again = self.api.ask("POST", wish.path, json=wish.body, headers=headers)
        assert (granted(again), again.headers["Idempotent-Replayed"]) == (wish.answer, "true")
        other = self.api.ask("POST", wish.path, json={**wish.body, **OTHER[wish.path]}, headers=headers)
        refused(other, 409, "This Idempotency-Key was used with another request")

    def into(self, box: Box, path: str, /, **fields: Any) -> httpx.Response:
        """The answer of a ready sandbox to a wish."""
        self.quiet()
        answer, key = self.client.post(path, {"id": box.id, **fields})
        if answer.status_code == 200:
            self.granted.append(Keyed(path, {"id": box.id, **fields}, key, answer.json()))
        return answer


def asked(api: Api, method: str, path: str, /, **fields: Any) -> httpx.Response:
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


def about_a_box(fits: Callable[[Box], bool], **more: st.SearchStrategy[Any]) -> Callable[[Rule], Rule]:
    """A rule about a sandbox that fits; there must be one."""
    return _about("box", lambda world: [box for box in world.boxes if fits(box)], more)


def about_a_checkpoint(fits: Callable[[Taken], bool], **more: st.SearchStrategy[Any]) -> Callable[[Rule], Rule]:
    """A rule about a checkpoint that fits; there must be one."""
    return _about("taken", lambda world: [one for one in world.taken if fits(one)], more)


def _about(
    name: str, found: Callable[[World], list[T]], more: dict[str, st.SearchStrategy[Any]]
) -> Callable[[Rule], Rule]:
    drawn = st.runner().flatmap(lambda stage: st.sampled_from(found(stage.world)))

    def decorate(then: Rule) -> Rule:
        made: Rule = rule(**{name: drawn}, **more)(then)
        wrapped: Rule = precondition(lambda stage: bool(found(stage.world)))(made)
        return wrapped

    return decorate
