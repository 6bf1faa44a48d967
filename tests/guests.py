"""Real guests for tests: the guest program on loopback as a plain program, a way to call it, and fixtures."""

import asyncio
import contextlib
import json
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from boxkeep_server.guestwire import GuestAddress, GuestPool
from tests.instances import free_port

GUEST = Path(__file__).parent.parent / "guest" / "boxkeep_guest"
READY_SECONDS = 20.0


class GuestProgram:
    """A guest that runs as a plain program. Its log and workspace are `directory/log` and `directory/workspace`."""

    def __init__(self, directory: Path, **boot: Any) -> None:
        self.directory = directory
        self.log = directory / "log"
        self.workspace = directory / "workspace"
        self.workspace.mkdir(exist_ok=True)
        self.boot = {
            "machine": secrets.token_hex(16),
            "secret": secrets.token_hex(32),
            "epoch": 0,
            "listen": ["127.0.0.1", free_port()],
            "log": str(self.log),
            "workspace": str(self.workspace),
            "runtime": "runc",
            **boot,
        }
        self.start()

    def start(self) -> None:
        """Start the program and wait until it listens."""
        file = self.directory / "boot.json"
        file.write_text(json.dumps(self.boot))
        # The account's own shell profile must not be what a sandbox's login shell reads.
        apart = [
            "unshare",
            "--mount",
            "--propagation",
            "slave",
            "sh",
            "-c",
            'mount -t tmpfs none /root && exec "$@"',
            "sh",
        ]
        command = [*apart, "/usr/bin/python3", "-I", "-S", "-B", str(GUEST), str(file)]
        with (self.directory / "stderr").open("ab") as stderr:
            self.process = subprocess.Popen(command, stderr=stderr)
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                socket.create_connection(tuple(self.boot["listen"])).close()
            except OSError:
                assert self.process.poll() is None, self.errors()
                assert time.monotonic() < deadline, "the guest does not listen"
                time.sleep(0.005)
            else:
                return

    @property
    def address(self) -> GuestAddress:
        """Where and how the guest is reached as it was booted."""
        host, port = self.boot["listen"]
        return GuestAddress(host, port, self.boot["machine"], self.boot["epoch"], bytes.fromhex(self.boot["secret"]))

    @property
    def pid(self) -> int:
        """The guest's pid."""
        return self.process.pid

    @contextlib.contextmanager
    def file_system(self, path: Path, size: str) -> Iterator[Path]:
        """A file system of `size` at `path`, where the guest sees it; what is given is that place as seen from here.

        It is mounted in the guest's own mount namespace, which does not get the mounts of a host that keeps its own
        private.
        """
        inside = ["nsenter", f"--mount=/proc/{self.pid}/ns/mnt"]
        subprocess.run([*inside, "mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(path)], check=True)
        try:
            yield Path(f"/proc/{self.pid}/root{path}")
        finally:
            subprocess.run([*inside, "umount", str(path)], check=True)

    def errors(self) -> str:
        """What the guest wrote on its standard error."""
        return (self.directory / "stderr").read_text()

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the guest and what it runs."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(timeout=20)


def process_id() -> str:
    """A fresh process id."""
    return secrets.token_hex(16)


class Commands:
    """Shorthand for running commands through the wire, as the control plane does."""

    def __init__(self, pool: GuestPool, address: GuestAddress, cwd: str) -> None:
        self.pool = pool
        self.address = address
        self.cwd = cwd

    def request(self, command: str, args: list[str] | None = None, **fields: Any) -> dict[str, Any]:
        """A `process.start` with defaults; `args` of None runs `sh -c`, quicker than a login shell."""
        if args is None:
            command, args = "sh", ["-c", command]
        plain = {"op": "process.start", "id": process_id(), "command": command, "args": args, "cwd": self.cwd}
        return {**plain, "timeoutMs": 60_000, "answer": "exit", "tail": 1 << 20, **fields}

    async def run(
        self, command: str, args: list[str] | None = None, **fields: Any
    ) -> tuple[dict[str, Any], bytes, bytes]:
        """Run a command to its end: the record, stdout and stderr."""
        return await self.ask(self.request(command, args, **fields))

    async def ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes, bytes]:
        """Make a download call: the process of the answer or of the last message, its DATA and its ERR bytes."""
        out, err = bytearray(), bytearray()
        async with self.pool.download(self.address, request) as download:
            record = download.answer.get("process")
            async for frame in download:
                if frame.kind == 2:
                    out += frame.payload
                elif frame.kind == 3:
                    err += frame.payload
                elif "process" in frame.json():
                    record = frame.json()["process"]
        assert record is not None
        return record, bytes(out), bytes(err)

    async def start(self, command: str, args: list[str] | None = None, **fields: Any) -> str:
        """Start a command in the background; its id."""
        request = self.request(command, args, background=True, **{"answer": "started", **fields})
        answer = await self.pool.call(self.address, request)
        return str(answer["process"]["id"])

    async def wait(self, process: str, timeout_ms: int = 30_000) -> dict[str, Any]:
        """Wait for a process: its record."""
        request = {"op": "process.wait", "id": process, "timeoutMs": timeout_ms}
        record: dict[str, Any] = (await self.pool.call(self.address, request))["process"]
        return record


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


async def eventually(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    """Poll until the condition holds; fail when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come about"
        await asyncio.sleep(0.01)


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


@pytest.fixture(scope="module")
def guest_program() -> Iterator[GuestProgram]:
    """One guest for all tests of a module; its stderr must stay empty."""
    directory = Path(tempfile.mkdtemp(prefix="boxkeep-guest-"))
    directory.chmod(0o755)
    program = GuestProgram(directory)
    yield program
    program.stop()
    errors = program.errors()
    shutil.rmtree(directory)
    assert errors == "", errors


@pytest.fixture
def own_guest(tmp_path: Path) -> Iterator[Callable[..., GuestProgram]]:
    """A function that starts a guest of the test's own, with fields of the boot file."""
    made: list[GuestProgram] = []

    def start(**boot: Any) -> GuestProgram:
        directory = tmp_path / f"guest{len(made)}"
        directory.mkdir()
        made.append(GuestProgram(directory, **boot))
        return made[-1]

    yield start
    for program in made:
        program.stop()


@pytest_asyncio.fixture
async def pool() -> AsyncIterator[GuestPool]:
    """A pool of the test's own."""
    made = GuestPool()
    yield made
    await made.close()


@pytest.fixture
def guest(guest_program: GuestProgram, pool: GuestPool) -> tuple[GuestPool, GuestAddress]:
    """A pool and the address of the module's guest."""
    return pool, guest_program.address


@pytest.fixture
def commands(guest_program: GuestProgram, pool: GuestPool) -> Commands:
    """Commands in the module's guest."""
    return Commands(pool, guest_program.address, str(guest_program.workspace))
