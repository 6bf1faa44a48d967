import asyncio
from pathlib import Path

import pytest

from boxkeep_server.model.node_api import Isolation
from tests.system.body.rooms import ISOLATIONS, Room, ask, call

both = pytest.mark.parametrize("isolation", ISOLATIONS)
MIB = 1 << 20


def limits(directory: Path) -> list[Path]:
    return [directory / name for name in ("memory.max", "memory.limit_in_bytes") if (directory / name).exists()]


async def test_a_memory_hog_dies_alone_under_runc(room: Room) -> None:
    machine = await room.machines.start(room.spec("runc", memory_bytes=128 * MIB))
    code, _ = await ask(machine.address, "sh", "-c", "head -c 400m /dev/zero | tail -c 400m | wc -c; exit 9")
    assert code == 9
    assert room.machines.alive(machine)
    usage = room.machines.usage(machine.id)
    assert usage.oom_kills >= 1
    assert 0 < usage.memory_bytes <= 128 * MIB
    assert usage.cpu_ms > 0


async def test_a_memory_hog_ends_its_machine_and_no_other_under_runsc(room: Room) -> None:
    machine = await room.machines.start(room.spec("runsc", memory_bytes=192 * MIB))
    other = await room.machines.start(room.spec("runsc"))
    await call(machine.address, "start", ["sh", "-c", "head -c 600m /dev/zero | tail -c 600m | wc -c"])
    async with asyncio.timeout(60):
        await room.machines.exited(machine)
    assert await ask(other.address, "true") == (0, "")
    await room.machines.destroy(machine.id)
    assert room.machines.found() == [other.id]


async def test_processes_come_to_an_end_and_the_guest_still_answers(room: Room) -> None:
    machine = await room.machines.start(room.spec("runc", pids=64))
    line = "i=0; while [ $i -lt 200 ]; do sleep 600 >/dev/null 2>&1 & i=$((i+1)); done"
    code, said = await ask(machine.address, "sh", "-c", line)
    assert code != 0
    assert "fork" in said
    assert len(room.cgroups.processes(machine.id)) <= 64
    assert room.machines.alive(machine)


@both
async def test_a_full_disk_can_still_delete_and_write_again(room: Room, isolation: Isolation) -> None:
    machine = await room.machines.start(room.spec(isolation, disk_bytes=64 * MIB))
    code, said = await ask(machine.address, "dd", "if=/dev/urandom", "of=/root/big", "bs=1M", "count=200")
    assert code != 0
    assert "quota exceeded" in said or "No space" in said
    assert await ask(machine.address, "rm", "/root/big") == (0, "")
    line = "for i in 1 2 3 4 5 6 7 8 9 10; do echo small > /root/small && exit 0; sync; sleep 0.5; done; exit 1"
    assert (await ask(machine.address, "sh", "-c", line))[0] == 0


@both
async def test_open_files_and_core_files_are_limited(room: Room, isolation: Isolation) -> None:
    machine = await room.machines.start(room.spec(isolation))
    _, said = await ask(machine.address, "cat", "/proc/self/limits")
    limits = {line[:25].strip(): line[25:].split()[:2] for line in said.splitlines()}
    assert int(limits["Max open files"][1]) <= room.parts.host.open_files
    assert limits["Max core file size"] == ["1", "1"] if isolation == "runc" else True


async def test_no_process_can_lift_the_limit_that_keeps_core_dumps_from_the_host(room: Room) -> None:
    machine = await room.machines.start(room.spec("runc"))
    _, said = await ask(machine.address, "sh", "-c", "ulimit -c 0; grep core /proc/self/limits")
    assert said.split()[4:6] == ["1", "1"]


async def test_all_machines_together_are_bounded(room: Room) -> None:
    machine = await room.machines.start(room.spec("runc"))
    assert machine.pid is not None
    parents = room.cgroups.path(machine.id).rsplit("/", 1)[0]
    assert parents == f"/{room.cgroups.parent}"
    directory = next(path for path in Path("/sys/fs/cgroup").glob(f"**/{room.cgroups.parent}") if limits(path))
    assert int(limits(directory)[0].read_text()) == 8 << 30
    assert (directory / machine.id).is_dir()
