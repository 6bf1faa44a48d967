"""Kills processes of a running instance and of its machines at random moments that a seed decides."""

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.bodies import bodies
from tests.chaos.ledger import Ledger
from tests.services import Service

SERVICES = ("serve", "node", "both", "runtime", "runtime")
MACHINES = ("sentry", "gofer", "first", "first")
"""Processes without which a machine is none: of gVisor, and PID 1, which is our guest, under runc."""
SHORT_LIVED = ("create", "start", "delete", "kill", "state", "events", "init")


def _short_lived(words: list[bytes]) -> bool:
    name = Path(os.fsdecode(words[0])).name
    return name in ("runc", "runsc") and any(verb.encode() in words for verb in SHORT_LIVED)


@dataclass(frozen=True)
class Prey:
    """Kinds of processes, and between how many seconds are left from one strike to the next."""

    kinds: Sequence[str]
    pause_s: tuple[float, float]


OURS = Prey(SERVICES, (0.2, 3.0))
THEIRS = Prey(MACHINES, (2.0, 6.0))


class Killer(threading.Thread):
    """Strikes `prey` until stopped; `struck` counts what it hit, by kind. Machines of `spared` sandboxes
    are not struck."""

    def __init__(self, service: Service, seed: int, ledger: Ledger, prey: Prey, spared: set[str]) -> None:
        super().__init__(name=f"killer-{seed}")
        self.service = service
        self.prey = prey
        self.chance = random.Random(seed)
        self.ledger = ledger
        self.spared = spared
        self.struck: dict[str, int] = {}
        self.done = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Strike, wait a little, strike again."""
        try:
            while not self.done.wait(self.chance.uniform(*self.prey.pause_s)):
                self.strike(self.chance.choice(self.prey.kinds))
        except BaseException as error:
            self.failure = error
            raise

    def strike(self, kind: str) -> None:
        """Kill one kind of process; services come back after a random moment."""
        if kind in MACHINES:
            self._kill_a_machine(kind)
            return
        self.struck[kind] = self.struck.get(kind, 0) + 1
        if kind == "runtime":
            self._kill_a_runtime()
            return
        names = ["serve", "node"] if kind == "both" else [kind]
        for name in names:
            self.service.kill(name)
        self.chance.shuffle(names)
        for name in names:
            time.sleep(self.chance.uniform(0, 0.5))
            self.service.start(name)
        if self.chance.random() < 0.7:
            self.service.wait_ready()

    def _kill_a_machine(self, kind: str) -> None:
        """What a sandbox runs in dies by itself, as far as anybody can see. It is noted before, so that who finds the
        sandbox dead finds that it was struck."""
        found = [body for body in bodies(self.service) if body.sandbox not in self.spared and body.of(kind)]
        if not found:
            return
        self.struck[kind] = self.struck.get(kind, 0) + 1
        body = self.chance.choice(found)
        with self.ledger.lock:
            self.ledger.struck.add(body.sandbox)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.chance.choice(body.of(kind)), signal.SIGKILL)

    def _kill_a_runtime(self) -> None:
        """A runtime's command line tool in the middle of its work: the machine that it makes or ends is half done."""
        root = str(self.service.root).encode()
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            for directory in Path("/proc").iterdir():
                with contextlib.suppress(OSError):
                    words = (directory / "cmdline").read_bytes().split(b"\0")
                    if _short_lived(words) and root in b" ".join(words):
                        os.kill(int(directory.name), signal.SIGKILL)
                        return
            time.sleep(0.002)
