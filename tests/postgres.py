"""A real PostgreSQL of the tests' own: an unprivileged process on a Unix socket, in a directory that goes with it."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

ACCOUNT = "postgres"
START_S = 30.0
_ENVIRONMENT = {"PATH": os.defpath}
_OPTIONS = ("-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=200", "-c", "shared_buffers=32MB")


@dataclass
class Server:
    """A server; each database of it is a test's own. `account` is whose it is, `directory` has all of it."""

    directory: Path
    account: dict[str, object]
    process: "subprocess.Popen[bytes] | None" = None

    def url(self, database: str) -> str:
        """SQLAlchemy's address of a database."""
        return f"postgresql+asyncpg://{ACCOUNT}@/{database}?host={self.directory}"

    def run(self, statement: str) -> None:
        """Run a statement as the server's owner."""
        subprocess.run(self._psql("postgres", "-c", statement), check=True, capture_output=True, env=_ENVIRONMENT)

    @contextmanager
    def holding(self, database: str, statement: str) -> Iterator[None]:
        """Within it somebody is in the middle of a transaction in which they have run this."""
        options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(self._psql(database), env=_ENVIRONMENT, **options) as other:
            assert other.stdin is not None
            assert other.stdout is not None
            other.stdin.write(f"BEGIN; {statement}; \\echo held\n")
            other.stdin.flush()
            assert other.stdout.readline() == "held\n"
            yield

    @contextmanager
    def away(self) -> Iterator[None]:
        """Within it the server is shut down, whoever is connected."""
        self.stop(signal.SIGINT)
        try:
            yield
        finally:
            self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        serve = [binaries() / "postgres", "-D", self.directory / "data", "-k", self.directory, *_OPTIONS]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(serve, stdout=log, stderr=log, **self.account)  # type: ignore[call-overload]
        until = time.monotonic() + START_S
        while True:
            assert self.process.poll() is None, (self.directory / "log").read_text()
            try:
                return self.run("SELECT 1")
            except subprocess.CalledProcessError:
                assert time.monotonic() < until, (self.directory / "log").read_text()
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop it: SIGTERM waits for clients, of which none should be left; SIGINT does not."""
        if self.process is None:
            return
        self.process.send_signal(how)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def _psql(self, database: str, *words: str) -> list[str]:
        where = ["-h", str(self.directory), "-U", ACCOUNT, database]
        return [str(binaries() / "psql"), "-qX", "-v", "ON_ERROR_STOP=1", *words, *where]


def binaries() -> Path:
    """Where Debian keeps the newest server's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    assert found, "These tests need PostgreSQL's server: apt-get install postgresql"
    return found[-1].parent


@contextmanager
def running_server() -> Iterator[Server]:
    """A server, started and afterwards gone with all its data."""
    directory = Path(tempfile.mkdtemp(prefix="boxkeep-pg-"))
    directory.chmod(0o711)  # services of other accounts connect
    account = pwd.getpwnam(ACCOUNT) if os.geteuid() == 0 else None
    options: dict[str, object] = {"cwd": directory}
    if account is not None:
        os.chown(directory, account.pw_uid, account.pw_gid)
        options |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    initialise = [
        binaries() / "initdb",
        "-D",
        directory / "data",
        "-U",
        ACCOUNT,
        "-A",
        "trust",
        "--no-sync",
        "-E",
        "UTF8",
    ]
    server = Server(directory, options)
    try:
        subprocess.run(initialise, check=True, capture_output=True, **options)  # type: ignore[call-overload]
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory)


NAMES = (f"test_{number}" for number in count(1))
