"""The node daemon as a process of its own, with real runtimes, real guests and real kills."""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from boxkeep_server.guestwire import GuestAddress, GuestPool, GuestRefused
from boxkeep_server.model.ids import new_id
from boxkeep_server.model.node_api import Claim, Claims, Leaks, NodeFacts, Release
from tests.node_worlds import wish
from tests.system.node_ground import INSTANCE, seen_in_kernel

ROOT = Path(__file__).parent.parent.parent
READY_S = 60
NOTHING: dict[str, tuple[str, ...]] = {"netns": (), "veths": (), "mounts": (), "cgroups": ()}


class Node:
    """A node process that is started, killed and started again over one directory."""

    def __init__(self, directory: Path, bundles: Path, warm: dict[str, int]) -> None:
        self.directory = directory
        self.bundles = bundles
        self.environment = {
            "BOXKEEP_INSTANCE": INSTANCE,
            "BOXKEEP_LIB_ROOT": str(directory / "lib"),
            "BOXKEEP_RUN_ROOT": str(directory / "run"),
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
            self.process = subprocess.Popen(self.command(), env=_environment(), cwd=ROOT, stdout=log, stderr=log)
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
        return [*program, json.dumps(self.environment), str(self.bundles), verb]

    async def take_down(self) -> list[str]:
        """End everything of the instance; answers whose machines there were."""
        ran = await asyncio.to_thread(
            subprocess.run, self.command("down"), env=_environment(), cwd=ROOT, capture_output=True, timeout=READY_S
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
        fields = {"not_after": _now() + 600_000, "hostname": "named", "isolation": isolation, **fields}
        wanted = wish(**fields).model_dump(mode="json", by_alias=True)  # type: ignore[arg-type]
        return Claim.model_validate_json(await self.ask("POST", "/v1/claims", wanted))

    async def get(self, claim: Claim) -> Claim:
        return Claim.model_validate_json(await self.ask("GET", _path(claim)))

    async def death_of(self, claim: Claim) -> Claim:
        """The claim once its machine is dead."""
        async with asyncio.timeout(READY_S):
            while True:
                if (now := await self.get(claim)).state == "dead":
                    return now
                await asyncio.sleep(0.02)

    async def release(self, claim: Claim) -> Release:
        self.guests.forget(claim.machine, claim.epoch)
        return Release.model_validate_json(await self.ask("DELETE", _path(claim)))

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
        address = GuestAddress(claim.address, claim.port, claim.machine, claim.epoch, bytes.fromhex(claim.secret))
        if background:
            return (await self.guests.call(address, request))["process"], ""
        async with self.guests.download(address, request) as download:
            said = b"".join([bytes(frame.payload) async for frame in download])
            return download.answer["process"], said.decode()

    async def leaks(self) -> int:
        return Leaks.model_validate_json(await self.ask("GET", "/v1/leaks")).total

    def record(self, claim: Claim) -> dict[str, object]:
        path = self.directory / "lib" / INSTANCE / "machines" / f"{claim.machine}.json"
        return dict(json.loads(path.read_text()))

    def log(self) -> str:
        return (self.directory / "log").read_text()[-4000:]


def _environment() -> dict[str, str]:
    paths = os.pathsep.join(str(ROOT / part) for part in ("server", "guest", "."))
    return {**os.environ, "PYTHONPATH": paths}


def _now() -> int:
    return time.time_ns() // 1_000_000


def _path(claim: Claim) -> str:
    return f"/v1/claims/{claim.sandbox}/{claim.epoch}/{claim.role}"


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that roots of user namespaces may pass through, as pytest's may not be."""
    with tempfile.TemporaryDirectory(prefix="boxkeep-node-", dir="/var/tmp") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture(scope="module")
def bundles() -> Iterator[Path]:
    """Where the guest's bundle is built once."""
    with tempfile.TemporaryDirectory(prefix="boxkeep-bundles-", dir="/var/tmp") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest_asyncio.fixture
async def node(directory: Path, bundles: Path) -> AsyncIterator[Node]:
    one = Node(directory, bundles, {})
    try:
        await one.start()
        yield one
    finally:
        await end(one)


async def end(node: Node) -> None:
    """Take down what is left of the instance."""
    await node.guests.close()
    assert node.process is not None
    if node.process.poll() is None:
        await node.stop(signal.SIGKILL)
    await node.session.close()
    await node.take_down()


@pytest.mark.parametrize("isolation", ["runc", "runsc"])
async def test_a_machine_is_claimed_used_and_released(node: Node, isolation: str) -> None:
    claim = await node.claim(isolation, env={"COLOUR": "green"})
    process, said = await node.run(claim, "echo $COLOUR; hostname")
    assert (process["exitCode"], said.split()) == (0, ["green", "named"])
    assert (await node.get(claim)).memory_bytes
    await node.release(claim)
    assert seen_in_kernel() == NOTHING
    assert await node.leaks() == 0


@pytest.mark.parametrize("isolation", ["runc", "runsc"])
async def test_a_machine_outlives_a_killed_node_with_its_processes(node: Node, isolation: str) -> None:
    claim = await node.claim(isolation)
    process, _ = await node.run(claim, "sleep 300", background=True)
    before = node.record(claim)
    await node.stop(signal.SIGKILL)
    _, said = await node.run(claim, "echo on its own")
    assert said == "on its own\n"
    await node.start()
    again = await node.get(claim)
    assert (again.state, again.machine, again.secret) == ("running", claim.machine, claim.secret)
    assert node.record(claim) == before
    _, said = await node.run(claim, f"cat /proc/{process['pid']}/cmdline")
    assert "sleep" in said
    remains = await node.release(claim)
    assert process["id"] in remains.tails
    assert seen_in_kernel() == NOTHING
    assert await node.leaks() == 0


async def test_a_node_told_to_stop_leaves_its_machines(node: Node) -> None:
    claim = await node.claim("runc")
    await node.stop(signal.SIGTERM)
    assert node.process is not None
    assert node.process.returncode == 0
    assert (await node.run(claim, "echo here"))[1] == "here\n"
    await node.start()
    assert (await node.get(claim)).state == "running"


async def test_only_one_node_of_an_instance_lives(node: Node) -> None:
    ran = await asyncio.to_thread(
        subprocess.run, node.command(), env=_environment(), cwd=ROOT, capture_output=True, timeout=READY_S, check=False
    )
    assert ran.returncode != 0
    assert b"lives already" in ran.stderr
    assert (await node.claim("runc")).state == "running"


@pytest.mark.parametrize("isolation", ["runc", "runsc"])
async def test_a_node_killed_in_the_middle_of_claims_leaves_no_stray(node: Node, isolation: str) -> None:
    for delay in (0.0, 0.03, 0.1, 0.2):
        claiming = [asyncio.ensure_future(node.claim(isolation)) for _ in range(3)]
        await asyncio.sleep(delay)
        await node.stop(signal.SIGKILL)
        await asyncio.gather(*claiming, return_exceptions=True)
        await node.start()
        claims = Claims.model_validate_json(await node.ask("GET", "/v1/claims")).claims
        assert all(claim.state != "dead" for claim in claims)
        for claim in claims:
            await node.release(claim)
        assert seen_in_kernel() == NOTHING, delay
        assert await node.leaks() == 0


async def test_a_machine_that_dies_under_the_node_is_reported_with_its_reason(node: Node) -> None:
    claim = await node.claim("runc")
    os.kill(int(str(node.record(claim)["pid"])), signal.SIGKILL)
    dead = await node.death_of(claim)
    assert dead.reason == "exited"
    remains = await node.release(claim)
    assert remains.died_at is not None
    assert seen_in_kernel() == NOTHING


@pytest.mark.parametrize("isolation", ["runc", "runsc"])
async def test_the_node_alone_ends_a_machine_whose_time_is_up(node: Node, isolation: str) -> None:
    claim = await node.claim(isolation, not_after=_now() + 3_000)
    dead = await node.death_of(claim)
    assert dead.reason == "expired"
    await node.release(claim)
    assert seen_in_kernel() == NOTHING


async def test_warm_machines_are_made_taken_and_survive_a_killed_node(directory: Path, bundles: Path) -> None:
    node = Node(directory, bundles, {"base/runc": 2, "base/runsc": 1})
    await node.start()
    try:
        await _warm(node, 3)
        await node.stop(signal.SIGKILL)
        await node.start()
        facts = NodeFacts.model_validate_json(await node.ask("GET", "/v1/node"))
        assert facts.warm == {"base/runc": 2, "base/runsc": 1}
        claims = [await node.claim("runc"), await node.claim("runsc", env={"A": base64.b64encode(b"x").decode()})]
        for claim in claims:
            assert (await node.run(claim, "hostname"))[1] == "named\n"
        await _warm(node, 3)
        for claim in claims:
            await node.release(claim)
    finally:
        await end(node)


async def _warm(node: Node, number: int) -> None:
    async with asyncio.timeout(READY_S):
        while True:
            facts = NodeFacts.model_validate_json(await node.ask("GET", "/v1/node"))
            if sum(facts.warm.values()) == number:
                return
            await asyncio.sleep(0.05)


async def test_the_secret_a_machine_was_born_with_opens_nothing_after_the_claim(node: Node) -> None:
    claim = await node.claim("runc")
    born = str(node.record(claim)["secret"])
    old = GuestAddress(claim.address, claim.port, claim.machine, 0, bytes.fromhex(born))
    with pytest.raises(GuestRefused, match="unauthorised"):
        await node.guests.call(old, {"op": "ping"})


async def test_taking_down_leaves_nothing_and_says_whose_machines_there_were(node: Node) -> None:
    claims = [await node.claim("runc"), await node.claim("runsc")]
    await node.stop(signal.SIGKILL)
    assert await node.take_down() == sorted(claim.sandbox for claim in claims)
    assert seen_in_kernel() == NOTHING
    assert not (Path("/sys/fs/cgroup/memory") / f"boxkeep-{INSTANCE}").exists()
    assert not any(str(node.directory) in line for line in Path("/proc/mounts").read_text().splitlines())
    assert await node.take_down() == []
