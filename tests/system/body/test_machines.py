import asyncio
import os
import signal
from dataclasses import replace

import pytest

from boxkeep_server.model.ids import new_id
from boxkeep_server.model.node_api import Isolation
from boxkeep_server.node.machines import Machines
from tests.system.body.rooms import ISOLATIONS, Room, ask, call, eventually

both = pytest.mark.parametrize("isolation", ISOLATIONS)


async def counted(address: str) -> int:
    return int((await ask(address, "cat", "/workspace/count"))[1] or 0)


async def count_on(address: str) -> None:
    line = "i=0; while :; do i=$((i+1)); echo $i > /workspace/new; mv /workspace/new /workspace/count; sleep 0.02; done"
    await call(address, "start", ["sh", "-c", line])

    async def begun() -> bool:
        return (await ask(address, "test", "-s", "/workspace/count"))[0] == 0

    await eventually(begun)


async def count_passes(address: str, number: int) -> None:
    async def passed() -> bool:
        return await counted(address) > number

    await eventually(passed)


@both
async def test_a_machine_starts_answers_and_goes_without_a_trace(room: Room, isolation: Isolation) -> None:
    before = room.traces()
    machine = await room.machines.start(room.spec(isolation))
    assert room.machines.alive(machine)
    assert room.machines.read(machine.id) == machine
    assert room.machines.found() == [machine.id]
    assert await ask(machine.address, "id", "-u") == (0, "0\n")
    assert await ask(machine.address, "hostname") == (0, "box\n")
    await room.machines.destroy(machine.id)
    assert not room.machines.alive(machine)
    assert room.machines.found() == []
    assert room.traces() == before


async def test_destroying_again_or_what_never_was_succeeds(room: Room) -> None:
    machine = await room.machines.start(room.spec())
    for _ in range(2):
        await room.machines.destroy(machine.id)
    assert await room.machines.destroy(new_id()) == {}


async def test_machines_started_at_once_keep_apart(room: Room) -> None:
    specs = [room.spec(isolation) for isolation in (*ISOLATIONS, *ISOLATIONS)]
    machines = await asyncio.gather(*(room.machines.start(spec) for spec in specs))
    for machine in machines:
        await ask(machine.address, "sh", "-c", f"echo {machine.id} > /root/mine")
    for machine in machines:
        assert await ask(machine.address, "cat", "/root/mine") == (0, f"{machine.id}\n")
    assert sorted(machine.id for machine in machines) == room.machines.found()


@both
async def test_the_end_of_a_machine_is_noticed(room: Room, isolation: Isolation) -> None:
    machine = await room.machines.start(room.spec(isolation))
    waiting = asyncio.create_task(room.machines.exited(machine))
    assert machine.pid is not None
    os.kill(machine.pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        await waiting
    assert not room.machines.alive(machine)


async def test_another_process_of_the_same_pid_is_not_taken_for_the_machine(room: Room) -> None:
    machine = await room.machines.start(room.spec())
    assert machine.started is not None
    later = replace(machine, started=machine.started + 1)
    assert not room.machines.alive(later)
    async with asyncio.timeout(5):
        await room.machines.exited(later)
    assert not room.machines.alive(replace(machine, boot_id="another"))


@both
async def test_a_frozen_machine_stands_still_and_goes_on(room: Room, isolation: Isolation) -> None:
    machine = await room.machines.start(room.spec(isolation))
    await count_on(machine.address)
    count = room.disks.path(machine.id) / "upper" / "workspace" / "count"
    await room.machines.freeze(machine.id)
    stood = int(count.read_text())
    await asyncio.sleep(0.3)
    assert int(count.read_text()) == stood
    room.machines.thaw(machine.id)
    await count_passes(machine.address, stood)


async def test_a_frozen_machine_can_be_destroyed(room: Room) -> None:
    machine = await room.machines.start(room.spec())
    await room.machines.freeze(machine.id)
    await room.machines.destroy(machine.id)
    assert room.machines.found() == []


async def test_a_running_machine_can_be_given_another_name(room: Room) -> None:
    machine = await room.machines.start(room.spec("runc"))
    await room.machines.rename(machine, "other")
    assert await ask(machine.address, "hostname") == (0, "other\n")


@both
async def test_the_files_that_name_a_machine_are_its_own(room: Room, isolation: Isolation) -> None:
    machine = await room.machines.start(room.spec(isolation))
    gateway = ".".join([*machine.address.split(".")[:3], str(int(machine.address.split(".")[3]) - 1)])
    said = (await ask(machine.address, "cat", "/etc/resolv.conf", "/etc/hostname", "/etc/machine-id"))[1].splitlines()
    assert said[0] == f"nameserver {gateway}"
    assert said[2] == "box"
    assert len(said[3]) == 32
    assert "127.0.1.1 box" in (await ask(machine.address, "cat", "/etc/hosts"))[1]
    assert await ask(machine.address, "stat", "-c", "%u %g %a", "/workspace") == (0, "0 0 777\n")


@both
async def test_temporary_files_lie_on_the_disk(room: Room, isolation: Isolation) -> None:
    machine = await room.machines.start(room.spec(isolation))
    await ask(machine.address, "sh", "-c", "echo here > /tmp/file")
    assert (room.disks.path(machine.id) / "upper" / "tmp" / "file").read_text() == "here\n"
    assert await ask(machine.address, "stat", "-c", "%a", "/tmp") == (0, "1777\n")


async def test_a_machine_that_cannot_boot_says_why_and_leaves_nothing(room: Room) -> None:
    broken = replace(room.parts, guest=replace(room.parts.guest, argv=("/.boxkeep/guest/absent",)))
    machines = Machines(room.lib, room.run, broken)
    spec = room.spec()
    with pytest.raises(Exception, match="absent"):
        await machines.start(spec)
    assert machines.found() == [spec.id]
    await machines.destroy(spec.id)
    assert machines.found() == []
