"""Two lanes of tests, and what runs after them: each is read as if alone, and whatever ends them, all clear up."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import eventually
from tests.ingredients import TREE
from tests.leftovers import on_host

NAMES = ("first", "second", "last")
PROGRAM = """
import os, sys
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # what is not needed takes the longest to start
from tests.instances import OWN
from tests.lanes import Lane, main
plain = ("-q", "-c", os.devnull, "-p", "no:cacheprovider")
sys.exit(main(plain, *(Lane((path,), OWN) for path in sys.argv[1:])))
"""
QUICK = """
import pathlib
def test_one():
    there = sorted(file.stem for file in pathlib.Path(__file__).parent.glob("*.ended"))
    pathlib.Path(__file__).with_suffix(".ended").touch()
    assert {holds}, 'the words of {name}'
    assert '{name}' != 'last' or there == ['test_first', 'test_second']
"""
HELD = """
import pathlib, subprocess, pytest
@pytest.fixture
def held():
    with subprocess.Popen(["sleep", "{sleeps}"]) as process:
        pathlib.Path(__file__).with_suffix(".begun").touch()
        yield process
        process.kill()
    pathlib.Path(__file__).with_suffix(".cleared").touch()
def test_for_ever(held): held.wait()
"""


def file_of(place: Path, name: str, text: str, **words: object) -> Path:
    path = place / f"test_{name}.py"
    path.write_text(text.format(name=name, **words))
    return path


def ran(*files: Path) -> tuple[int, str]:
    """The exit code, and all that was said."""
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM, *files], cwd=TREE, capture_output=True, text=True, check=False
    )
    return told.returncode, told.stdout


@contextlib.contextmanager
def begun(place: Path) -> Iterator["subprocess.Popen[str]"]:
    """Two lanes in the middle of a test that holds something."""
    seconds = f"600.{secrets.randbelow(10**18):018}"
    files = [file_of(place, name, HELD, sleeps=seconds) for name in NAMES]
    argv: list[str | Path] = [sys.executable, "-c", PROGRAM, *files]
    last = files.pop().with_suffix(".begun")
    here = {**os.environ, "TMPDIR": str(place)}  # who is killed leaves its file
    with subprocess.Popen(argv, cwd=TREE, env=here, stdout=subprocess.PIPE, text=True) as process:
        eventually("both to begin", lambda: all(file.with_suffix(".begun").exists() for file in files), 60)
        yield process
    assert not last.exists()
    eventually("both to clear up", lambda: all(file.with_suffix(".cleared").exists() for file in files), 60)
    eventually("nothing to be left", lambda: not on_host(str(place)) and not on_host(seconds), 20)


@pytest.mark.parametrize("failing", ["none", *NAMES])
def test_all_run_to_their_ends_and_each_fails_the_whole(tmp_path: Path, failing: str) -> None:
    files = [file_of(tmp_path, name, QUICK, holds=name != failing) for name in NAMES]
    code, said = ran(*files)
    assert code == (failing in NAMES)
    closing = [line for line in said.splitlines() if " in " in line and line[0] == "1"]
    assert [line.split(" in ")[0] for line in closing] == [
        "1 failed" if name == failing else "1 passed" for name in NAMES
    ]
    before, _, after = said.partition("== the second lane")
    assert ("the words of first" in before, "the words of second" in before) == (failing == "first", False)
    assert ("the words of first" in after, "the words of second" in after) == (False, failing == "second")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_who_is_told_to_end_has_both_lanes_clear_up(tmp_path: Path, number: signal.Signals) -> None:
    with begun(tmp_path) as process:
        for _ in range(3):  # as a whole group of processes is told, and then told again
            process.send_signal(number)
        said = process.communicate(timeout=60)[0]
        assert process.returncode == 1
        assert said.count("KeyboardInterrupt") >= 2


def test_lanes_whose_starter_is_killed_clear_up_too(tmp_path: Path) -> None:
    with begun(tmp_path) as process:
        process.kill()
        process.communicate(timeout=60)  # whoever could still say something has gone
