"""Runs the scenarios of the network in a namespace that plays the host, so that the real host is left alone."""

import subprocess
import sys
from pathlib import Path

SCENARIOS = Path(__file__).with_name("scenarios_network.py")


def test_the_scenarios_of_the_network_hold_on_a_host_of_their_own() -> None:
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(SCENARIOS)]
    argv = ["unshare", "--net", "--mount", "--propagation", "private", "--", *pytest]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
