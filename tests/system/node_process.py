"""A node daemon as a process of its own, for tests: started, killed and started again over one directory."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from boxkeep_server.guestwire import GuestAddress, GuestPool
from boxkeep_server.model.ids import new_id
from boxkeep_server.model.node_api import COPY_KEY_HEADER, Claim, Discarded, Leaks, Release, Snapshot, Snapshots
from tests.node_worlds import wish
from tests.system.node_ground import INSTANCE

ROOT = Path(__file__).parent.parent.parent
READY_S = 60
COPY_KEY = bytes(range(32))
DISKS = pytest.mark.parametrize("node", ["pool", "directory"], indirect=True)
"""For tests that hold whatever the disks lie on."""
NOTHING: dict[str, tuple[str, ...]] = {"netns": (), "veths": (), "mounts": (), "cgroups": ()}


class Node:
    """A node process that is started, killed and started again over one directory."""

    def __init__(self, directory: Path, bundles: Path, warm: dict[str, int], disks: str = "pool") -> None:
        self.directory = directory
        self.bundles = bundles
        self.flavour = "plain"
        self.environment = {
            "BOXKEEP_INSTANCE": INSTANCE,
            "BOXKEEP_LIB_ROOT": str(directory / "lib"),
            "BOXKEEP_RUN_ROOT": str(directory / "run"),
            "BOXKEEP_NODE__DISKS": disks,
            "BOXKEEP_NODE__DISK_GIB": "4",
            "BOXKEEP_NODE__MACHINE_MEMORY_MIB": "512",
            "BOXKEEP_NODE__WARM": "{" + ", ".join(f'"{kind}" = {number}' for kind, number in warm.items()) + "}",
        }
        self.socket = directory / "run" / INSTANCE / "node.sock"
        self.guests = GuestPool()
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start the process and wait until it answers."""
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command(), env=environment(), cwd=ROOT, stdout=log, stderr=log)
        self.session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(self.socket)))
        async with asyncio.timeout(READY_S):
            while True:
                assert self.process.poll() is None, self.log()
                try:
                    await self.ask("GET", "/v1/node")
                except aiohttp.ClientError:
                    await asyncio.sleep(0.01)
                else:
                    return

    def command(self, verb: str = "up") -> list[str]:
        """The command line of the process, or of one that takes everything down."""
        program = [sys.executable, "-m", "tests.system.node_ground"]
        return [*program, json.dumps(self.environment), str(self.bundles), self.flavour, verb]

    async def take_down(self) -> list[str]:
        """End everything of the instance; answers whose machines there were."""
        ran = await asyncio.to_thread(
            subprocess.run, self.command("down"), env=environment(), cwd=ROOT, capture_output=True, timeout=READY_S
        )
        assert ran.returncode == 0, ran.stderr
        return list(json.loads(ran.stdout[ran.stdout.rindex(b"[") :]))

    async def stop(self, number: int) -> None:
        """End the process by a signal and wait until it is gone."""
        assert self.process is not None
        self.process.send_signal(number)
        await asyncio.to_thread(self.process.wait)
        await self.session.close()

    async def ask(self, method: str, path: str, body: object = None) -> bytes:
        data = None if body is None else json.dumps(body)
        async with self.session.request(method, f"http://node{path}", data=data) as response:
            raw = await response.read()
            assert response.status == 200, (raw, self.log())
            return raw

    async def claim(self, isolation: str, **fields: object) -> Claim:
        fields = {"not_after": now_ms() + 600_000, "hostname": "named", "isolation": isolation, **fields}
        wanted = wish(**fields).model_dump(mode="json", by_alias=True)  # type: ignore[arg-type]
        return Claim.model_validate_json(await self.ask("POST", "/v1/claims", wanted))

    async def get(self, claim: Claim) -> Claim:
        return Claim.model_validate_json(await self.ask("GET", path_of(claim)))

    async def death_of(self, claim: Claim) -> Claim:
        """The claim once its machine is dead."""
        async with asyncio.timeout(READY_S):
            while True:
                if (now := await self.get(claim)).state == "dead":
                    return now
                await asyncio.sleep(0.02)

    async def release(self, claim: Claim) -> Release:
        self.guests.forget(self.way_to(claim))
        return Release.model_validate_json(await self.ask("DELETE", path_of(claim)))

    @staticmethod
    def way_to(claim: Claim) -> GuestAddress:
        """The way to the guest of a claimed machine."""
        return GuestAddress(claim.address, claim.port, claim.machine, claim.epoch, bytes.fromhex(claim.secret))

    async def run(self, claim: Claim, line: str, background: bool = False) -> tuple[dict[str, object], str]:
        """Run a shell line inside."""
        request: dict[str, object] = {
            "op": "process.start",
            "id": new_id(),
            "command": line,
            "args": None,
            "cwd": "/",
            "env": {},
            "user": "root",
            "stdin": None,
            "keepStdin": False,
            "timeoutMs": 60_000,
            "background": background,
            "pty": None,
            "answer": "started" if background else "exit",
            "tail": 4096,
        }
        address = self.way_to(claim)
        if background:
            return (await self.guests.call(address, request))["process"], ""
        async with self.guests.download(address, request) as download:
            said = b"".join([bytes(frame.payload) async for frame in download])
            return download.answer["process"], said.decode()

    async def pause(self, claim: Claim, *, if_idle: bool = False) -> Snapshot:
        self.guests.forget(self.way_to(claim))
        return Snapshot.model_validate_json(await self.ask("POST", f"{path_of(claim)}/pause", {"ifIdle": if_idle}))

    async def resume(self, claim: Claim, **fields: object) -> Claim:
        """The sandbox of a claim that was paused, going on in its next epoch."""
        fields = {"epoch": claim.epoch + 1, "resume": claim.epoch, **fields}
        return await self.claim(claim.isolation, sandbox=claim.sandbox, **fields)

    async def snapshots(self) -> tuple[Snapshot, ...]:
        return Snapshots.model_validate_json(await self.ask("GET", "/v1/snapshots")).snapshots

    async def discard(self, claim: Claim) -> int:
        path = f"/v1/snapshots/{claim.sandbox}/{claim.epoch}/main"
        return Discarded.model_validate_json(await self.ask("DELETE", path)).count

    async def checkpoint(self, claim: Claim, checkpoint: str, *, memory: bool = False) -> Snapshot:
        if memory:
            self.guests.forget(self.way_to(claim))
        wanted = {"checkpoint": checkpoint, "memory": memory}
        return Snapshot.model_validate_json(await self.ask("POST", f"{path_of(claim)}/checkpoints", wanted))

    async def forget(self, checkpoint: str) -> int:
        return Discarded.model_validate_json(await self.ask("DELETE", f"/v1/checkpoints/{checkpoint}")).count

    async def copy_of(self, name: str, key: bytes = COPY_KEY) -> bytes:
        """The copy of a snapshot."""
        async with self.session.get(f"http://node/v1/snapshots/{name}/copy", headers=_key(key)) as response:
            raw = await response.read()
            assert response.status == 200, raw
            return raw

    async def bring(self, name: str, copy: bytes | AsyncIterator[bytes], key: bytes = COPY_KEY) -> tuple[int, str]:
        """The status and the words with which the node answers a copy that is brought to it."""
        path = f"http://node/v1/snapshots/{name}/copy"
        body = io.BytesIO(copy) if isinstance(copy, bytes) else copy
        async with self.session.put(path, data=body, headers=_key(key)) as response:
            return response.status, await response.text()

    async def leaks(self) -> int:
        return Leaks.model_validate_json(await self.ask("GET", "/v1/leaks")).total

    def record(self, claim: Claim) -> dict[str, object]:
        path = self.directory / "lib" / INSTANCE / "machines" / f"{claim.machine}.json"
        return dict(json.loads(path.read_text()))

    def log(self) -> str:
        return (self.directory / "log").read_text()[-4000:]


def _key(key: bytes) -> dict[str, str]:
    return {COPY_KEY_HEADER: key.hex()}


def environment() -> dict[str, str]:
    paths = os.pathsep.join(str(ROOT / part) for part in ("server", "guest", "."))
    return {**os.environ, "PYTHONPATH": paths}


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def path_of(claim: Claim) -> str:
    return f"/v1/claims/{claim.sandbox}/{claim.epoch}/{claim.role}"


async def end(node: Node) -> None:
    """Take down what is left of the instance."""
    await node.guests.close()
    assert node.process is not None
    if node.process.poll() is None:
        await node.stop(signal.SIGKILL)
    await node.session.close()
    await node.take_down()
