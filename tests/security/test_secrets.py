"""Secrets stay where they belong: not in logs, process lists, OCI configurations, events, or the store in the clear."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import Sandbox, eventually
from tests.services import Service
from tests.terminals import Terminal

LARGEST = 256 << 20


@pytest.fixture(scope="module")
def secret() -> str:
    return f"s3cr3t{os.urandom(12).hex()}"


@pytest.fixture(scope="module")
def holder(service: Service, isolation: str, secret: str) -> Iterator[Sandbox]:
    api = service.api("secretive")
    made = api.ready(runtime="base", isolation=isolation, env={"TOKEN": secret})
    assert made.run("echo ${#TOKEN}", env={"OTHER": secret}).strip() == str(len(secret))
    made.exec("cat >/dev/null", stdin=secret)
    yield made
    api.delete(made.id)


def files_of(service: Service) -> Iterator[Path]:
    """The instance's files outside the sandboxes' own disks."""
    for directory, names, files in os.walk(service.root):
        names[:] = [name for name in names if not os.path.ismount(Path(directory, name))]
        for name in files:
            path = Path(directory, name)
            # A namespace is kept by a file that something is mounted on and that cannot be read.
            if path.is_file() and not path.is_symlink() and not os.path.ismount(path) and path.stat().st_size < LARGEST:
                yield path


def holding(service: Service, words: str) -> list[str]:
    """Which of the instance's files hold these words."""
    return [str(path) for path in files_of(service) if words.encode() in path.read_bytes()]


def test_a_value_of_env_is_in_no_file_of_the_services(service: Service, holder: Sandbox, secret: str) -> None:
    assert holding(service, holder.id), "the walk finds nothing at all"
    assert holding(service, secret) == []


def test_a_value_of_env_is_in_no_command_line_and_no_environment_of_a_service(
    service: Service, holder: Sandbox, secret: str
) -> None:
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit() or int(directory.name) == os.getpid():
            continue
        try:
            assert secret.encode() not in (directory / "cmdline").read_bytes(), directory
        except (FileNotFoundError, ProcessLookupError):
            continue
    for process in service.running.values():
        assert secret.encode() not in Path(f"/proc/{process.pid}/environ").read_bytes()


def test_a_value_of_env_is_in_no_answer(holder: Sandbox, secret: str) -> None:
    api = holder.api
    told = str(api.get(holder.id)) + str(api.list()) + str(holder.processes())
    assert secret not in told
    assert "TOKEN" in str(api.get(holder.id)["envNames"])
    assert secret not in api.http.get("/metrics").text


def test_a_key_and_a_token_are_in_no_file(service: Service, holder: Sandbox) -> None:
    key = str(holder.api.key)
    told = holder.api.call("GET", "/terminal", params={"id": holder.id})
    with Terminal(told["terminalUrl"]) as terminal:
        terminal.type("echo used-$((1 + 1))\r")
        terminal.until("used-2")
    holder.api.http.get("/v1/sandboxes", params={"id": holder.id, "key": key})
    log = service.logs / "serve.out"
    eventually("the socket to be logged", lambda: "WEBSOCKET /v1/sandboxes/terminal 101 " in log.read_text(), 10)
    assert holding(service, key) == []
    assert holding(service, told["token"]) == []
    assert "token=" not in log.read_text()


def test_the_files_of_the_services_are_not_open_to_others(service: Service, holder: Sandbox) -> None:
    # What is in the guest's bundle is there for every sandbox to read.
    own = [path for path in files_of(service) if service.lib / "bundles" not in path.parents]
    open_to_all = [
        str(path)
        for path in own
        if path.stat().st_mode & 0o007 and any(word in path.name for word in ("sqlite", "key", "secret", "claims"))
    ]
    assert open_to_all == []
    # To connect is to write.
    assert [path for path in service.root.rglob("*.sock") if path.stat().st_mode & 0o002] == []


def test_the_control_plane_does_not_run_as_root(service: Service, holder: Sandbox) -> None:
    status = Path(f"/proc/{service.running['serve'].pid}/status").read_text().splitlines()
    uids = next(line for line in status if line.startswith("Uid")).split()[1:]
    assert "0" not in uids
    caps = next(line for line in status if line.startswith("CapEff")).split()[1]
    assert int(caps, 16) == 0


def test_an_env_is_erased_when_its_sandbox_has_ended(service: Service, secret: str) -> None:
    api = service.api("secretive")
    made = api.ready(runtime="base", isolation="runc", env={"TOKEN": secret})
    api.delete(made.id)
    eventually("to end", lambda: api.get(made.id)["status"] == "ended", 20)
    assert holding(service, secret) == []
