import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = """
import os, subprocess, sys
from pathlib import Path
from boxkeep_server.node import syscalls
from boxkeep_server.node.mountspace import MountSpace, mounts
run = Path(sys.argv[1])
space = MountSpace(run)
"""


@pytest.fixture
def run() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="boxkeep-space-", dir="/var/tmp") as directory:
        yield Path(directory)
        outside(Path(directory), "space.destroy()")


def outside(run: Path, script: str) -> str:
    """Run a script in a process of its own."""
    argv = [sys.executable, "-c", SCRIPT + script, str(run)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(argv, check=True, capture_output=True, text=True, env=environment).stdout


def test_what_is_mounted_inside_is_found_by_later_processes_and_by_nobody_outside(run: Path) -> None:
    (run / "here").mkdir()
    outside(run, "space.enter(); syscalls.mount('tmpfs', run / 'here', 'tmpfs', 0); (run / 'here/file').touch()")
    assert outside(run, "space.enter(); print(os.listdir(run / 'here'))") == "['file']\n"
    assert outside(run, "print(os.listdir(run / 'here'), space.exists())") == "[] True\n"


def test_leaving_leads_back(run: Path) -> None:
    names = outside(
        run,
        "def here(): return os.readlink('/proc/thread-self/ns/mnt')\n"
        "before = here(); space.enter(); inside = here(); space.leave(); print(before == here(), before == inside)",
    )
    assert names == "True False\n"


def test_what_is_started_inside_knows_that_it_is(run: Path) -> None:
    inner = "MountSpace(run).enter(); print(os.readlink('/proc/thread-self/ns/mnt'))"
    said = outside(
        run,
        "space.enter(); print(os.readlink('/proc/thread-self/ns/mnt'), flush=True);"
        f"subprocess.run([sys.executable, '-c', {SCRIPT + inner!r}, str(run)], check=True)",
    )
    first, second = said.split()
    assert first == second


def test_the_space_can_be_destroyed_twice_and_made_anew(run: Path) -> None:
    outside(run, "space.enter()")
    outside(run, "space.destroy(); space.destroy()")
    assert outside(run, "print(space.exists(), [m.target for m in mounts() if str(run) in m.target])") == "False []\n"
    assert outside(run, "space.enter(); print('in')") == "in\n"


def test_within_a_container_a_space_is_made_whichever_processor_that_and_we_are_on(run: Path) -> None:
    processors = sorted(os.sched_getaffinity(0))[:2]
    for container, ours in itertools.product(processors, repeat=2):
        said = outside(
            run,
            "everywhere = os.sched_getaffinity(0)\n"
            f"os.sched_setaffinity(0, {{{container}}}); syscalls.unshare(syscalls.CLONE_NEWNS)\n"
            "syscalls.mount(None, '/', None, syscalls.MS_REC | syscalls.MS_PRIVATE)\n"
            f"os.sched_setaffinity(0, {{{ours}}}); os.sched_setaffinity(0, everywhere)\n"
            "space.enter(); print(os.sched_getaffinity(0) == everywhere)",
        )
        assert said == "True\n", (container, ours)


def test_many_that_enter_at_once_meet_in_one_space(run: Path) -> None:
    script = SCRIPT + "space.enter(); print(os.readlink('/proc/thread-self/ns/mnt'))"
    argv = [sys.executable, "-c", script, str(run)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(6)]
    assert len({process.communicate()[0] for process in processes}) == 1
