"""kill -9 of everything of ours, and of machines, at seeded random moments, while clients work and webhooks are owed:
acknowledged facts hold, nothing leaks.

`TEST_CHAOS_SECONDS` (default 60, and 600 with `SOAK`) and `TEST_CHAOS_SEED` (default: drawn and printed) decide how
long and which.
"""

import os
import random
import threading
import time
import uuid
from collections.abc import Iterator

import httpx
import pytest

from boxkeep_server.model.events import PUBLIC
from tests.chaos.facts import all_end, all_of, everything_created_is_there_once, finished_commands_stay_finished
from tests.chaos.hooks import first_told, owed, told_everything
from tests.chaos.killer import OURS, THEIRS, Killer
from tests.chaos.ledger import Ledger
from tests.clients import Api, Sandbox, eventually, server_sent
from tests.receivers import Receiver
from tests.services import Service

SECONDS = float(os.environ.get("TEST_CHAOS_SECONDS", "600" if os.environ.get("SOAK") else "60"))
SEED = int(os.environ.get("TEST_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
WORKERS = 4
PAUSES = 0.4
CHECKPOINTS = 0.3
PASSING = {502, 503, 504}


class Worker(threading.Thread):
    """A client that makes sandboxes, works in them and deletes them, and retries as clients do."""

    def __init__(self, api: Api, seed: int, ledger: Ledger, done: threading.Event) -> None:
        super().__init__(name=f"worker-{seed}")
        self.api, self.ledger, self.done = api, ledger, done
        self.chance = random.Random(seed)

    def run(self) -> None:
        """Work until it is over."""
        while not self.done.is_set():
            sandbox = self._create()
            if sandbox is None:
                continue
            for _ in range(self.chance.randrange(4) if self._is_ready(sandbox) else 0):
                self._exec(sandbox)
                if self.chance.random() < CHECKPOINTS and not self._checkpoint(sandbox):
                    break
                if self.chance.random() < PAUSES and not self._pause_and_resume(sandbox):
                    break
            self._end(sandbox)

    def _ask(self, method: str, path: str, **more: object) -> httpx.Response | None:
        """An answer, or None where the service is away; anything else is strange."""
        try:
            response = self.api.ask(method, path, **more)
        except httpx.TransportError:
            return None
        if response.status_code in PASSING:
            return None
        if response.status_code not in (200, 409):
            self.ledger.odd(f"{method} {path}: {response.status_code} {response.text[:300]}")
        return response

    def _create(self) -> str | None:
        name = self._word()
        isolation = self.chance.choice(("runc", "runc", "runsc"))
        wish = {"runtime": "base", "isolation": isolation, "name": name, "ephemeral": False}
        while not self.done.is_set():
            response = self._ask("POST", "", json=wish, headers={"Idempotency-Key": name})
            if response is not None and response.status_code == 200:
                self.ledger.created[name] = response.json()["id"]
                return self.ledger.created[name]
            time.sleep(0.05)
        return None

    def _is_ready(self, sandbox: str) -> bool:
        """Wait until it is; false where it will not be, or that is not waited for."""
        patient = self.chance.random() < 0.8
        while patient and not self.done.is_set():
            response = self._ask("GET", "", params={"id": sandbox})
            status = response.json()["status"] if response is not None and response.status_code == 200 else "away"
            if status in ("ready", "active", "failed", "ended"):
                return status in ("ready", "active")
            time.sleep(0.05)
        return False

    def _pause_and_resume(self, sandbox: str) -> bool:
        """Whether it is ready again; all that was acknowledged before must be there."""
        wait = self.chance.random() < 0.7  # else it is resumed as soon as that may be
        if not self._until(sandbox, "/pause", {"paused"} if wait else {"pausing", "paused"}):
            return False
        if not self._until(sandbox, "/resume", {"ready", "active"}):
            return False
        if sandbox not in self.ledger.went_back:
            self._has(sandbox, self.ledger.lines(sandbox), "a pause")
        return True

    def _has(self, sandbox: str, lines: int, after: str) -> None:
        """See that so many commands' lines are there."""
        if not lines:
            return
        response = self._ask("GET", "/fs/read", params={"id": sandbox, "path": "/workspace/log"})
        if response is not None and response.status_code == 200:
            there = len(response.json()["content"].splitlines())
            if there < lines:
                self.ledger.odd(f"{sandbox} lost {lines - there} of {lines} lines by {after}")

    def _checkpoint(self, sandbox: str) -> bool:
        """Take one, and perhaps fork it or go back to it; whether the sandbox may be worked in yet."""
        lines = self.ledger.lines(sandbox)
        body = {"id": sandbox, "memory": self.chance.random() < 0.5}
        response = self._ask("POST", "/checkpoints", json=body, headers={"Idempotency-Key": self._word()})
        if response is None or response.status_code != 200:
            return True
        checkpoint = response.json()["id"]
        with self.ledger.lock:
            self.ledger.taken[checkpoint] = (sandbox, lines)
        what = self.chance.random()
        if what < 0.3:
            self._fork(checkpoint, lines)
        elif what < 0.6:
            return self._go_back(sandbox, checkpoint, lines)
        return True

    def _fork(self, checkpoint: str, lines: int) -> None:
        """Two sandboxes that begin with what was acknowledged before the checkpoint, or none."""
        key = {"Idempotency-Key": self._word()}
        wish = {"fromCheckpoint": checkpoint, "count": 2, "ephemeral": False}
        while not self.done.is_set():
            response = self._ask("POST", "", json=wish, headers=key)
            if response is not None and response.status_code == 200:
                forks = [item["id"] for item in response.json()["items"]]
                if len(forks) != 2:
                    self.ledger.odd(f"{len(forks)} forks of {checkpoint}")
                for fork in forks:
                    if self._is_ready(fork):
                        self._has(fork, lines, "a fork")
                    self._end(fork)
                return
            time.sleep(0.05)

    def _go_back(self, sandbox: str, checkpoint: str, lines: int) -> bool:
        """Whether it is ready again; what had been acknowledged before the checkpoint must be there."""
        self.ledger.went_back.add(sandbox)
        while not self.done.is_set():
            response = self._ask("POST", "/checkpoints/restore", json={"checkpointId": checkpoint})
            if response is not None and response.status_code == 200:
                break
            time.sleep(0.05)
        if not self._until(sandbox, "/resume", {"ready", "active"}):
            return False
        self._has(sandbox, lines, "going back")
        return True

    def _word(self) -> str:
        return uuid.UUID(int=self.chance.getrandbits(128)).hex

    def _until(self, sandbox: str, path: str, wanted: set[str]) -> bool:
        """Ask for a pause or a resume until it came about; false where it will not."""
        while not self.done.is_set():
            self._ask("POST", path, json={"id": sandbox})
            response = self._ask("GET", "", params={"id": sandbox})
            status = response.json()["status"] if response is not None and response.status_code == 200 else "away"
            if status in wanted:
                return True
            if status in ("failed", "ended"):
                return False
            time.sleep(0.05)
        return False

    def _exec(self, sandbox: str) -> None:
        number = self.chance.randrange(200)
        word = f"{self.chance.getrandbits(64):x}"
        line = f"echo {word} >> /workspace/log; grep -c {word} /workspace/log; exit {number}"
        response = self._ask("POST", "/exec", json={"id": sandbox, "command": line, "timeout": 20_000})
        if response is None or response.status_code != 200:
            time.sleep(0.1)
            return
        answer = response.json()
        self.ledger.ran(sandbox, answer)
        if answer["outcome"] == "exited" and (answer["exitCode"], answer["stdout"]) != (number, "1\n"):
            self.ledger.odd(f"{line}: {answer}")

    def _end(self, sandbox: str) -> None:
        while not self.done.is_set():
            response = self._ask("DELETE", "", params={"id": sandbox})
            if response is not None and response.status_code == 200:
                self.ledger.deleted.add(sandbox)
                return
            time.sleep(0.05)


@pytest.fixture
def steady(service: Service) -> Iterator[list[Sandbox]]:
    """Sandboxes that work all through the storm."""
    api = service.api("steady")
    made = [api.ready(runtime="base", isolation=isolation) for isolation in ("runc", "runsc")]
    yield made
    for sandbox in made:
        api.delete(sandbox.id)


@pytest.mark.timeout(SECONDS + 300)
def test_what_was_acknowledged_holds_and_nothing_is_lost_doubled_or_leaked(
    service: Service, steady: list[Sandbox]
) -> None:
    print(f"seed {SEED}, {SECONDS:.0f} s")
    api = service.api("storm")
    line = "n=0; while :; do n=$((n + 1)); echo $n; sleep 0.1; done"
    tickers = [sandbox.background(line) for sandbox in steady]
    with told_everything(api) as receiver:
        ledger = storm(service, api, {sandbox.id for sandbox in steady})

        assert ledger.strange == []
        assert min(len(ledger.created), len(ledger.finished)) > 3, "the storm let nothing through at all"
        everything_created_is_there_once(api, ledger)
        finished_commands_stay_finished(api, ledger)
        _only_the_struck_have_died(api, ledger)
        _the_dead_left_their_files(api, ledger)
        _checkpoints_can_be_gone_on_from(api, ledger)
        for sandbox, ticker in zip(steady, tickers, strict=True):
            _ticked_without_a_gap(sandbox, ticker)
        all_end(api)
        _events_are_in_order(api, ledger)
        _who_works_is_told_all_though_another_stalls(api, receiver)
    service.wait_clean(60)


def storm(service: Service, api: Api, spared: set[str]) -> Ledger:
    """Clients at work while the killer strikes; quiet and ready again when it returns."""
    ledger, done = Ledger(), threading.Event()
    workers = [Worker(api, SEED + number, ledger, done) for number in range(WORKERS)]
    killers = [Killer(service, SEED + at, ledger, prey, spared) for at, prey in enumerate((OURS, THEIRS))]
    for thread in (*workers, *killers):
        thread.start()
    killers[0].join(SECONDS)
    for killer in killers:
        killer.done.set()
        killer.join()
    done.set()
    for worker in workers:
        worker.join()
    for killer in killers:
        assert killer.failure is None
    service.wait_ready()
    done_ = f"created {len(ledger.created)}, commands {len(ledger.finished)}, checkpoints {len(ledger.taken)}"
    struck = killers[0].struck | killers[1].struck
    print(f"struck {struck}, {done_}")
    return ledger


def _only_the_struck_have_died(api: Api, ledger: Ledger) -> None:
    """A machine that we struck was seen to die, of nothing else, and no other was."""
    for item in all_of(api):
        if item["status"] == "failed" and item["reason"] != "boot_failed":
            assert (item["reason"], item["id"] in ledger.struck) == ("machine_died", True), item


def _the_dead_left_their_files(api: Api, ledger: Ledger) -> None:
    """What died in use is left as a checkpoint, with every line that a command was acknowledged to have written."""
    dead = [str(item["id"]) for item in all_of(api) if (item["status"], item["reason"]) == ("failed", "machine_died")]
    for sandbox in dead:
        last = eventually("what it left", lambda one=sandbox: _last_of(api, one), 60, 0.2)
        (fork,) = api.call("POST", "", json={"fromCheckpoint": last, "count": 1})["items"]
        api.wait_status(fork["id"], "ready", "active")
        if sandbox not in ledger.went_back:
            there = int(Sandbox(api, fork["id"]).run("cat /workspace/log 2>/dev/null | wc -l"))
            assert there >= ledger.lines(sandbox), sandbox
        api.delete(fork["id"])
    print(f"{len(dead)} died in use and left their files")


def _last_of(api: Api, sandbox: str) -> str | None:
    items = api.call("GET", "/checkpoints", params={"id": sandbox, "limit": 1000})["items"]
    return next((str(item["id"]) for item in items if item["name"] == "last"), None)


def _who_works_is_told_all_though_another_stalls(api: Api, receiver: Receiver) -> None:
    """Every event of every sandbox, in order, however often; nobody else's silence was waited for."""
    wanted = {str(item["id"]): owed(api, str(item["id"]), PUBLIC) for item in all_of(api)}
    eventually("everything to be told", lambda: _told(receiver, wanted) == wanted, 60, 0.5)
    assert receiver.stalling


def _told(receiver: Receiver, wanted: dict[str, list[int]]) -> dict[str, list[int]]:
    told = first_told(receiver, "/ok")
    return {sandbox: told.get(sandbox, []) for sandbox in wanted}


def _checkpoints_can_be_gone_on_from(api: Api, ledger: Ledger) -> None:
    listed = {item["id"] for item in api.call("GET", "/checkpoints", params={"limit": 1000})["items"]}
    assert ledger.taken.keys() <= listed
    for checkpoint, (_, lines) in list(ledger.taken.items())[-3:]:
        (fork,) = api.call("POST", "", json={"fromCheckpoint": checkpoint, "count": 1})["items"]
        api.wait_status(fork["id"], "ready", "active")
        assert int(Sandbox(api, fork["id"]).run("cat /workspace/log 2>/dev/null | wc -l")) >= lines
    for checkpoint in listed:
        eventually("it to be deleted", lambda one=checkpoint: _deleted(api, one), 30, 0.2)


def _deleted(api: Api, checkpoint: str) -> bool:
    """Whether a checkpoint is deleted; one that a sandbox is being started from is so later."""
    return api.ask("DELETE", "/checkpoints", params={"checkpointId": checkpoint}).status_code in (200, 404)


def _ticked_without_a_gap(sandbox: Sandbox, ticker: str) -> None:
    assert sandbox.api.get(sandbox.id)["status"] in ("ready", "active")
    numbers = [int(line) for line in sandbox.output(ticker).split()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > SECONDS
    seen = len(numbers)
    eventually("it to go on", lambda: len(sandbox.output(ticker).split()) > seen, 10)


def _events_are_in_order(api: Api, ledger: Ledger) -> None:
    for sandbox in list(ledger.created.values())[:10]:
        numbers = []
        with api.http.stream("GET", "/v1/sandboxes/events", params={"id": sandbox}, timeout=20) as response:
            for _, data in server_sent(response):
                numbers.append(data["sequence"])
                if data["type"] in ("sandbox.ended", "sandbox.failed"):
                    break
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
