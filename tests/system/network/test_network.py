"""Runs the scenarios of the network in namespaces that play the host, so that the real host is left alone."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize("scenarios", ["reach", "hostile", "host", "names", "cuts", "six"])
def test_the_scenarios_hold_on_a_host_of_their_own(scenarios: str) -> None:
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / f"{scenarios}.py")]
    argv = ["unshare", "--net", "--mount", "--propagation", "private", "--", *run]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
