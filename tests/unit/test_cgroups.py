from pathlib import Path

import pytest

from boxkeep_server.node.cgroups import Cgroups, Layout, Usage, layout

MACHINE = "m" * 32
V2_ALONE = "sysfs /sys sysfs rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n"
HYBRID = """tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0
cgroup /sys/fs/cgroup/systemd cgroup rw,relatime,xattr,name=systemd 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0
"""


def test_v2_alone_and_hybrid_are_told_apart() -> None:
    assert layout(V2_ALONE) == Layout({}, Path("/sys/fs/cgroup"))
    assert layout(V2_ALONE).unified
    hybrid = layout(HYBRID)
    assert not hybrid.unified
    assert hybrid.v1["cpuacct"] == Path("/sys/fs/cgroup/cpu,cpuacct")
    assert len(hybrid.hierarchies()) == 4


@pytest.fixture
def unified(tmp_path: Path) -> Cgroups:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids")
    parent = tmp_path / "boxkeep-x"
    for directory in (tmp_path, parent, parent / MACHINE):
        directory.mkdir(exist_ok=True)
        files = ("cgroup.subtree_control", "memory.max", "cpu.weight", "cgroup.freeze", "cgroup.kill", "cgroup.procs")
        for file in files:
            (directory / file).write_text("")
    (parent / "cgroup.controllers").write_text("memory pids")
    machine = parent / MACHINE
    (machine / "memory.current").write_text("4096\n")
    (machine / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\n")
    (machine / "cpu.stat").write_text("usage_usec 1234567\nuser_usec 1\n")
    (machine / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    return Cgroups(Layout({}, tmp_path), "boxkeep-x")


def test_under_v2_the_parent_is_bounded_and_light(unified: Cgroups, tmp_path: Path) -> None:
    unified.open(1 << 30)
    assert (tmp_path / "boxkeep-x" / "memory.max").read_text() == str(1 << 30)
    assert (tmp_path / "boxkeep-x" / "cpu.weight").read_text() == "25"
    assert "+pids" in (tmp_path / "boxkeep-x" / "cgroup.subtree_control").read_text()


def test_under_v2_usage_comes_from_the_machines_files(unified: Cgroups) -> None:
    assert unified.usage(MACHINE) == Usage(memory_bytes=4096, cpu_ms=1234, oom_kills=2)
    assert unified.frozen(MACHINE)
    assert unified.machines() == [MACHINE]


def test_under_v2_killing_and_freezing_are_one_write_each(unified: Cgroups, tmp_path: Path) -> None:
    unified.freeze(MACHINE, True)
    assert (tmp_path / "boxkeep-x" / MACHINE / "cgroup.freeze").read_text() == "1"
    unified.kill(MACHINE)
    assert (tmp_path / "boxkeep-x" / MACHINE / "cgroup.kill").read_text() == "1"


@pytest.mark.parametrize("name", ["..", "a/b", "", "M" * 32])
def test_only_ids_name_cgroups(unified: Cgroups, name: str) -> None:
    with pytest.raises(ValueError, match="not a machine id"):
        unified.kill(name)
