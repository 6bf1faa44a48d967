"""A real PostgreSQL of the tests' own: an unprivileged process on a Unix socket, in a directory that goes with it."""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

ACCOUNT = "postgres"
START_S = 30.0
_OPTIONS = ("-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=200", "-c", "shared_buffers=32MB")


@dataclass(frozen=True)
class Server:
    """A running server; each database of it is a test's own."""

    socket: Path

    def url(self, database: str) -> str:
        """SQLAlchemy's address of a database."""
        return f"postgresql+asyncpg://{ACCOUNT}@/{database}?host={self.socket}"

    def run(self, statement: str) -> None:
        """Run a statement as the server's owner."""
        where = ["-h", str(self.socket), "-U", ACCOUNT, "postgres"]
        psql = [str(binaries() / "psql"), "-qX", "-v", "ON_ERROR_STOP=1", "-c", statement, *where]
        subprocess.run(psql, check=True, capture_output=True, env={"PATH": os.defpath})


def binaries() -> Path:
    """Where Debian keeps the newest server's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    assert found, "These tests need PostgreSQL's server: apt-get install postgresql"
    return found[-1].parent


@contextmanager
def running_server() -> Iterator[Server]:
    """A server, started and afterwards gone with all its data."""
    directory = Path(tempfile.mkdtemp(prefix="boxkeep-pg-"))
    account = pwd.getpwnam(ACCOUNT) if os.geteuid() == 0 else None
    options: dict[str, object] = {"cwd": directory}
    if account is not None:
        os.chown(directory, account.pw_uid, account.pw_gid)
        options |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    data = directory / "data"
    initialise = [binaries() / "initdb", "-D", data, "-U", ACCOUNT, "-A", "trust", "--no-sync", "-E", "UTF8"]
    serve = [binaries() / "postgres", "-D", data, "-k", directory, *_OPTIONS]
    process = None
    try:
        subprocess.run(initialise, check=True, capture_output=True, **options)  # type: ignore[call-overload]
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(serve, stdout=log, stderr=log, **options)  # type: ignore[call-overload]
        server = Server(directory)
        _wait_until_it_answers(server, process, directory / "log")
        yield server
    finally:
        if process is not None:
            process.terminate()  # smart shutdown waits for clients, of which none is left
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(directory)


def _wait_until_it_answers(server: Server, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + START_S
    while True:
        assert process.poll() is None, log.read_text()
        try:
            return server.run("SELECT 1")
        except subprocess.CalledProcessError:
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)


NAMES = (f"test_{number}" for number in count(1))
