"""`make up`, `restart`, `down` and `purge` as an operator runs them, on an installation of the test's own."""

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.clients import Api, Sandbox, eventually
from tests.ingredients import CACHE, TREE
from tests.instances import OWN, free_port
from tests.leftovers import leftovers

INSTANCE, SUBNET = OWN.beside("i").name, OWN.beside("i").subnet
PLACES = {name: Path(f"/{name}/boxkeep/{INSTANCE}") for name in ("opt", "var/lib", "run", "var/log")}
CONFIG = Path(f"/etc/boxkeep/{INSTANCE}.toml")


@dataclass(frozen=True)
class Installation:
    """What make does to it."""

    port: int
    preview_port: int

    def make(self, goal: str) -> str:
        """Run a goal that comes about; what it printed."""
        ran = self.ask(goal)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def ask(self, goal: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a goal."""
        environment = {**os.environ, "INSTANCE": INSTANCE, "PORT": str(self.port), "SUBNET": SUBNET}
        return subprocess.run(
            [TREE / "scripts/instance.sh", goal],
            env={name: value for name, value in environment.items() if not name.startswith(("BOXKEEP_", "PYTHON"))}
            | more,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    def pids(self) -> set[str]:
        """The processes of control plane and node."""
        return {(PLACES["run"] / f"{name}.pid").read_text().strip() for name in ("serve", "node")}


@pytest.fixture
def installation() -> Iterator[Installation]:
    """One that takes the images of the test cache, so that none is built again."""
    made = Installation(free_port(), free_port())
    made.make("purge")
    CONFIG.parent.mkdir(exist_ok=True)
    CONFIG.write_text(
        f'instance = "{INSTANCE}"\naccount = "boxkeep"\n'
        f"[control]\nport = {made.port}\npreview_port = {made.preview_port}\n"
        f'[node]\nsubnet = "{SUBNET}"\nimages = "{CACHE / "images"}"\ndisk_gib = 16\nwarm = {{}}\n'
    )
    try:
        yield made
    finally:
        made.make("purge")
    assert leftovers(INSTANCE, tuple(PLACES.values())) == {}
    assert not [place for place in (*PLACES.values(), CONFIG) if place.exists()]


def test_up_runs_and_shows_it_and_sandboxes_outlive_all_but_down(installation: Installation) -> None:
    said = installation.make("up")
    assert len(re.findall(r"^  (bun|python|base) +under (runc|runsc) +42 - ", said, re.MULTILINE)) == 6, said
    assert f"localhost:{installation.preview_port}\n" in said
    preview = f"http://127.0.0.1:{installation.preview_port}"
    eventually("the gateway to answer", lambda: httpx.get(preview).status_code == 404, 20)
    key = re.search(r"API key: +(br_live_[a-z0-9]{32}) ", said)
    assert key is not None, said
    with Api(f"http://127.0.0.1:{installation.port}", key[1]) as api:
        for part in ("", "viewer.js", "viewer.css"):
            assert httpx.get(f"http://127.0.0.1:{installation.port}/viewer/{part}").status_code == 200, part
        boxes = [api.ready(runtime="base", isolation=isolation) for isolation in ("runc", "runsc")]
        running = {box.id: box.background("sleep 3600") for box in boxes}
        pids = installation.pids()
        assert key[1] in installation.make("up")
        assert installation.pids() == pids
        _all_run(boxes, running)
        installation.make("restart")
        assert not installation.pids() & pids
        _all_run(boxes, running)
        said = installation.make("down")
        for box in boxes:
            assert f"ended {box.id}: operator_shutdown" in said
        assert leftovers(INSTANCE, tuple(PLACES.values())) == {}
        installation.make("up")
        for box in boxes:
            seen = api.get(box.id)
            assert (seen["status"], seen["reason"]) == ("ended", "operator_shutdown")


def _all_run(boxes: list[Sandbox], running: dict[str, str]) -> None:
    for box in boxes:
        assert box.process(running[box.id])["state"] == "running"


def test_a_port_that_another_has_is_told_before_anything_is_installed(installation: Installation) -> None:
    with socket.create_server(("127.0.0.1", installation.port)):
        refused = installation.ask("up")
    assert refused.returncode == 1
    assert re.search(
        rf"^FATAL  API port +{installation.port} is taken by \S+ \(process {os.getpid()}\)$", refused.stdout, re.M
    )
    assert "PORT=" in refused.stdout
    assert "nothing was installed" in refused.stderr
    assert not PLACES["opt"].exists()


def test_disks_of_an_installation_stay_where_they_are(installation: Installation) -> None:
    for disks, words in (("directory", "lie in a pool, and stay there"), ("tape", "must be pool or directory")):
        refused = installation.ask("up", DISKS=disks)
        assert refused.returncode == 1
        assert words in refused.stderr
    assert not PLACES["opt"].exists()
