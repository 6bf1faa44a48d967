"""The units of systemd that `make up` writes, as systemd itself reads them."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.ingredients import TREE

NAMES = ("machines", "node", "serve")


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units of an installation, written by the script's own function."""
    program = tmp_path / "opt" / "venv" / "bin" / "boxkeep"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    places = {name: str(tmp_path / name) for name in ("opt", "lib", "run", "config", "environment")}
    write = f'. "$clone/scripts/services_systemd.sh"; for name in {" ".join(NAMES)}; do '
    write += 'systemd_text $name >"$to/$(systemd_unit $name)"; done'
    known = {"instance": "some", "account": "daemon", "clone": str(TREE), "to": str(tmp_path), **places}
    subprocess.run(["bash", "-euc", write], env={**os.environ, **known}, check=True)
    return tmp_path


def test_units_are_whole_and_systemd_finds_nothing_wrong_with_them(units: Path) -> None:
    written = [units / f"boxkeep-{name}-some.service" for name in NAMES]
    assert not [unit.name for unit in written if "@" in unit.read_text().replace("@system-service", "")]
    seen = subprocess.run(["systemd-analyze", "verify", *written], capture_output=True, text=True, check=False)
    assert [line for line in seen.stderr.splitlines() if "boxkeep" in line] == []
    assert seen.returncode == 0, seen.stderr


def test_a_node_that_stops_leaves_its_machines_and_has_no_mounts_of_its_own(units: Path) -> None:
    lines = set((units / "boxkeep-node-some.service").read_text().splitlines())
    assert "KillMode=process" in lines
    own_mounts = ("Protect", "Private", "ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "TemporaryFileSystem")
    inherited = ("NoNewPrivileges", "SystemCall", "Restrict", "LockPersonality", "MemoryDenyWriteExecute")
    assert not [line for line in lines if line.startswith((*own_mounts, *inherited))]


def test_the_control_plane_may_do_little(units: Path) -> None:
    unit = units / "boxkeep-serve-some.service"
    asked = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", unit]
    seen = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert seen.returncode == 0, seen.stdout[-2000:] + seen.stderr
