"""The figures of a running Boxkeep, each measured as a client sees it."""

import contextlib
import hashlib
import os
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.kept import Kept
from tests.bench.stopwatch import Samples, sampled, timed
from tests.clients import Api, Sandbox, eventually, fresh
from tests.leftovers import machine_processes
from tests.services import Service
from tests.terminals import Terminal

MIB = 1 << 20
WARM_RUNTIME, COLD_RUNTIME = "base", "python"
REFILL_S = 3.0


@dataclass
class Bench:
    """Measures one service; `rows` is what was found. Without `service` what needs its machine is left out."""

    api: Api
    service: Service | None
    scale: float = 1.0
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def count(self, usual: int) -> int:
        """How many samples to take where `usual` is the full number."""
        return max(3, int(usual * self.scale))

    def tell(self, figure: str, isolation: str, found: object) -> None:
        """Keep a figure, and show it at once."""
        self.rows.append((figure, isolation, str(found)))
        print(f"| {figure} | {isolation} | {found} |", flush=True)

    def all(self, isolations: tuple[str, ...], only: Collection[str] = ()) -> None:
        """Every figure, or those of the groups in `only`."""
        for isolation in isolations:
            for group in (
                self.first_command,
                self.work,
                self.pauses,
                self.checkpoints,
                self.many_creates,
                self.deletes,
                self.idle_cost,
                self.recovery,
            ):
                if not only or group.__name__ in only:
                    group(isolation)
        for one in (self.reads, self.revocation, self.services_memory):
            if not only or one.__name__ in only:
                one()

    def work(self, isolation: str) -> None:
        """What is done in one sandbox."""
        with fresh(self.api, runtime=WARM_RUNTIME, isolation=isolation) as box:
            self.exec_true(box, isolation)
            self.echo(box, isolation)
            self.transfers(box, isolation)
            self.under_load(box, isolation)

    def kept(self) -> Kept:
        """A connection of its own, to be closed."""
        return Kept(self.api.url, self.api.key)

    def first_command(self, isolation: str) -> None:
        """From the create's first byte to the first command's answer."""
        made: list[str] = []

        def once(runtime: str) -> None:
            wish = {"runtime": runtime, "isolation": isolation}
            answer = kept.post("?wait=ready&timeoutMs=60000", wish)
            made.append(answer["id"])
            assert kept.post("/exec", _true_in(answer["id"]))["exitCode"] == 0

        def tidy() -> None:
            while made:
                self.api.delete(made.pop())
            time.sleep(REFILL_S)

        with self.kept() as kept:
            for kind, runtime in (("warm", WARM_RUNTIME), ("cold", COLD_RUNTIME)):
                found = sampled(lambda runtime=runtime: once(runtime), self.count(15), tidy)  # type: ignore[misc]
                self.tell(f"create → first command answered, {kind}", isolation, found)
        tidy()

    def exec_true(self, box: Sandbox, isolation: str) -> None:
        """`true` on a kept connection."""
        with self.kept() as kept:
            shell: dict[str, object] = {"id": box.id, "command": "true"}
            sampled(lambda: kept.post("/exec", shell), 5)
            self.tell("exec a shell's `true`", isolation, sampled(lambda: kept.post("/exec", shell), self.count(200)))
            bare = sampled(lambda: kept.post("/exec", _true_in(box.id)), self.count(300))
            self.tell("exec `true` as an argv", isolation, bare)

    def pauses(self, isolation: str) -> None:
        """From the wish to pause to `paused`, durable on the node, and from the wish to resume to `ready`."""
        for heap in (0, 200) if isolation == "runsc" else (0,):
            with fresh(self.api, runtime=COLD_RUNTIME, isolation=isolation) as box, self.kept() as kept:
                if heap:
                    box.background(f"exec python3 -c 'import os, time; h = os.urandom({heap} << 20); time.sleep(9999)'")
                    time.sleep(REFILL_S)
                paused, resumed = [], []
                for _ in range(self.count(10)):
                    paused.append(timed(lambda: kept.post("/pause?wait=paused", {"id": box.id})))
                    resumed.append(timed(lambda: kept.post("/resume?wait=ready", {"id": box.id})))
                what = f"with {heap} MiB in memory" if heap else "idle"
                self.tell(f"pause, durable on the node, {what}", isolation, Samples(tuple(paused)))
                self.tell(f"resume, {what}", isolation, Samples(tuple(resumed)))

    def checkpoints(self, isolation: str) -> None:
        """Of a workspace of 1 GiB that changes a little: how long the sandbox stands still, and how soon it is back, or
        others have begun from it."""
        with fresh(self.api, runtime=COLD_RUNTIME, isolation=isolation, ephemeral=False) as box, self.kept() as kept:
            box.run("head -c 1G /dev/urandom > /workspace/data; sync")
            for memory in (False, True) if isolation == "runsc" else (False,):
                self._checkpoints_of(box, kept, isolation, memory)

    def _checkpoints_of(self, box: Sandbox, kept: Kept, isolation: str, memory: bool) -> None:
        what = "with memory" if memory else "of files"
        stood: list[dict[str, Any]] = []
        made: list[dict[str, Any]] = []

        def take() -> None:
            stood.append(kept.post("/checkpoints", {"id": box.id, "memory": memory}))

        def change() -> None:
            box.run("head -c 1M /dev/urandom > /workspace/change-$(date +%s%N)")

        used = self._pool_bytes()
        taken = sampled(take, self.count(10), change)
        self.tell(f"checkpoint {what}, 1 GiB", isolation, taken)
        if self.service is not None:
            each = (self._pool_bytes() - used) / len(stood) / MIB
            self.tell(f"space for each more checkpoint {what}, 1 MiB having changed", isolation, f"{each:.1f} MiB")
        standing = Samples(tuple(float(one["stoppedMs"]) for one in stood))
        self.tell(f"the sandbox stands still for a checkpoint {what}", isolation, standing)
        last = stood[-1]["id"]
        back = sampled(lambda: kept.post("/checkpoints/restore?wait=ready", {"checkpointId": last}), 5)
        self.tell(f"restore {what}", isolation, back)
        forks = {"fromCheckpoint": last, "count": 20}
        took = timed(lambda: made.extend(kept.post("?wait=ready", forks)["items"]))
        assert {one["status"] for one in made} == {"ready"}
        self.tell(f"20 forks {what}, all ready", isolation, f"{took / 1000:.1f} s")
        for one in made:
            self.api.delete(one["id"])
        for one in stood:
            self.api.call("DELETE", "/checkpoints", params={"checkpointId": one["id"]})

    def _pool_bytes(self) -> int:
        """What the node's pool of disks holds, all of it written out."""
        if self.service is None:
            return 0
        seen = Path(f"/proc/{self.service.running['node'].pid}/root")
        pool = seen / str(self.service.root).lstrip("/") / "run" / self.service.instance / "pool"
        descriptor = os.open(pool, os.O_RDONLY)
        try:
            subprocess.run(["sync", "--file-system", pool], check=True)
            found = os.fstatvfs(descriptor)
        finally:
            os.close(descriptor)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def under_load(self, box: Sandbox, isolation: str) -> None:
        """The same while others are busy."""

        def once() -> None:
            with self.kept() as kept:
                kept.post("/exec", _true_in(box.id))

        with self._creating(isolation, 50):
            self.tell("exec `true` while 50 creates run", isolation, sampled(once, self.count(100)))
        with fresh(self.api, runtime=WARM_RUNTIME, isolation=isolation) as hog:
            loads = {
                "CPU": "for n in 1 2 3 4; do (while :; do :; done) & done; wait",
                "disk": "while :; do head -c 256M /dev/urandom > f; sync; done",
                "pids": "while :; do for n in $(seq 100); do true & done; wait; done",
            }
            for name, line in loads.items():
                process = hog.background(line)
                found = sampled(once, self.count(100))
                hog.post("/processes/signal", processId=process, signal="KILL", tree=True)
                hog.wait(process)
                self.tell(f"exec `true` while a neighbour burns {name}", isolation, found)

    @contextlib.contextmanager
    def _creating(self, isolation: str, count: int) -> Iterator[None]:
        wish = {"runtime": WARM_RUNTIME, "isolation": isolation}
        with ThreadPoolExecutor(count) as pool:
            answers = [pool.submit(self.api.create, **wish) for _ in range(count)]
            yield
            made = [answer.result()["id"] for answer in answers]
            self._delete_all(made)

    def _delete_all(self, made: list[str]) -> None:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(self.api.delete, made))
        eventually(
            "all to end", lambda: all(self.api.get(one)["status"] in ("ended", "failed") for one in made), 120, 0.3
        )

    def echo(self, box: Sandbox, isolation: str) -> None:
        """A key to its echo."""
        with Terminal.of(self.api, box.id) as terminal:
            terminal.type("stty -echo; PS1=; cat\r")
            time.sleep(1)
            terminal.type("begun\r")
            terminal.until("begun\r\n")
            numbers = iter(range(10**9))

            def once() -> None:
                word = f"k{next(numbers)}k"
                terminal.seen = b""
                terminal.type(f"{word}\r")
                terminal.until(word)

            self.tell("terminal, a line to its echo by WebSocket", isolation, sampled(once, self.count(200)))

    def transfers(self, box: Sandbox, isolation: str) -> None:
        """500 MB that cannot be compressed, both ways."""
        block = os.urandom(4 * MIB)
        size = int(500 * self.scale) or 8
        sent = hashlib.sha256()

        def pieces() -> Iterator[bytes]:
            for _ in range(size // 4):
                yield block

        up = timed(lambda: box.upload("/workspace/big", pieces()))
        got = 0

        def download() -> None:
            nonlocal got
            params = {"id": box.id, "path": "/workspace/big"}
            with self.api.http.stream("GET", "/v1/sandboxes/fs/download", params=params) as response:
                for chunk in response.iter_raw(MIB):
                    got += len(chunk)

        down = timed(download)
        moved = size // 4 * 4 * MIB
        assert got == moved, (got, moved, sent)
        rates = (moved / 1e6 / (up / 1000), moved / 1e6 / (down / 1000))
        self.tell(f"upload / download of {moved // MIB} MiB", isolation, f"{rates[0]:.0f} / {rates[1]:.0f} MB/s")
        box.run("rm big")

    def many_creates(self, isolation: str) -> None:
        """50 at once, until the last is ready."""
        count = self.count(50)
        made: list[str] = []

        def one(_: int) -> str:
            with self.kept() as kept:
                wish = {"runtime": WARM_RUNTIME, "isolation": isolation}
                return str(kept.post("?wait=ready&timeoutMs=180000", wish)["id"])

        def all_ready() -> None:
            with ThreadPoolExecutor(count) as pool:
                made.extend(pool.map(one, range(count)))

        self.tell(f"{count} creates at once, all ready", isolation, f"{timed(all_ready) / 1000:.1f} s")
        self._delete_all(made)

    def deletes(self, isolation: str) -> None:
        """From DELETE until everything of it is gone."""
        boxes = [self.api.ready(runtime=WARM_RUNTIME, isolation=isolation) for _ in range(self.count(10))]

        def once() -> None:
            box = boxes.pop()
            self.api.delete(box.id)
            eventually("to end", lambda: self.api.get(box.id)["status"] == "ended", 30, 0.005)

        self.tell("DELETE → everything gone", isolation, sampled(once, len(boxes)))

    def idle_cost(self, isolation: str) -> None:
        """What an idle sandbox adds to the proportional set size of all processes of machines."""
        if self.service is None:
            return
        before = self._machines_kib()
        count = self.count(10)
        boxes = [self.api.ready(runtime=WARM_RUNTIME, isolation=isolation) for _ in range(count)]
        time.sleep(3)
        each = (self._machines_kib() - before) / count / 1024
        self.tell(f"idle sandbox, PSS ({count} of them)", isolation, f"{each:.1f} MiB")
        self._delete_all([box.id for box in boxes])

    def _machines_kib(self) -> int:
        assert self.service is not None
        return sum(_kib(pid, "smaps_rollup", "Pss") for pid in machine_processes(self.service.instance))

    def recovery(self, isolation: str) -> None:
        """kill -9 of control plane and node with 50 machines, until a command in one of them is answered."""
        if self.service is None:
            return
        count = self.count(50)
        made = [self.api.create(runtime=WARM_RUNTIME, isolation=isolation)["id"] for _ in range(count)]
        for one in made:
            self.api.wait_status(one, "ready", within_s=180)
        box = Sandbox(self.api, made[-1])
        for name in ("serve", "node"):
            self.service.kill(name)

        def answered() -> None:
            assert self.service is not None
            for name in ("node", "serve"):
                self.service.start(name)
            eventually("an answer", lambda: _answers(box), 60, 0.01)

        took = timed(answered)
        self.tell(f"kill -9 of all with {count} machines → first answer", isolation, f"{took / 1000:.2f} s")
        self.service.wait_ready()
        self._delete_all(made)

    def reads(self) -> None:
        """`GET ?id=` a second, asked by sixteen connections for a few seconds."""
        created = self.api.create(runtime=WARM_RUNTIME)["id"]
        self.api.wait_status(created, "ready")
        ends = time.monotonic() + 5 * self.scale

        def reader(_: int) -> int:
            done = 0
            with Api(self.api.url, self.api.key) as own:
                while time.monotonic() < ends:
                    assert own.http.get("/v1/sandboxes", params={"id": created}).status_code == 200
                    done += 1
            return done

        begun = time.monotonic()
        cpu = self._serve_cpu_s()
        with ThreadPoolExecutor(4) as pool:
            total = sum(pool.map(reader, range(4)))
        spent = self._serve_cpu_s() - cpu
        by_core = f"; {total / spent:.0f} for each second of the server's CPU" if spent else ""
        self.tell("GET ?id= a second", "", f"{total / (time.monotonic() - begun):.0f}{by_core}")
        self.api.delete(created)

    def _serve_cpu_s(self) -> float:
        if self.service is None:
            return 0.0
        fields = Path(f"/proc/{self.service.running['serve'].pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def revocation(self) -> None:
        """From the revocation's command having ended until the key is refused."""
        if self.service is None:
            return
        doomed = self.service.api("bench-doomed")
        assert doomed.ask("GET", "").status_code == 200
        self.service.revoke(doomed)
        refused: Callable[[], bool] = lambda: doomed.ask("GET", "").status_code == 401  # noqa: E731
        took = timed(lambda: eventually("401", refused, 10, 0.005))
        self.tell("revocation effective within", "", f"{took:.0f} ms")

    def services_memory(self) -> None:
        """What control plane and node take when nothing happens, and what lies on the disk."""
        if self.service is None:
            return
        kib = {name: _kib(run.pid, "smaps_rollup", "Pss") for name, run in self.service.running.items()}
        told = ", ".join(f"{name} {size / 1024:.0f}" for name, size in kib.items())
        self.tell("API + node memory, idle", "", f"{sum(kib.values()) / 1024:.0f} MiB PSS ({told})")


def _true_in(sandbox: str) -> dict[str, object]:
    return {"id": sandbox, "command": "true", "args": []}


def _answers(box: Sandbox) -> bool:
    with contextlib.suppress(Exception):
        return box.api.ask("POST", "/exec", json={"id": box.id, "command": "true"}).status_code == 200
    return False


def _kib(pid: int, file: str, name: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
    return 0


__all__ = ["Bench", "Samples"]
