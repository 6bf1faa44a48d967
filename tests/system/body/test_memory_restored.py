from dataclasses import replace
from pathlib import Path

from boxkeep_server.node.machines import boot_id
from boxkeep_server.node.parts import MachineSpec, MemoryImage, Origin
from boxkeep_server.node.records import Machine
from tests.system.body.rooms import Room, ask, call
from tests.system.body.test_machines import count_on, count_passes, counted

PASSING = {"ps", "sleep", "mv"}


async def processes(address: str) -> set[tuple[str, str]]:
    """Pids and commands of all that stays; of what is ending only the name is left, in brackets."""
    _, said = await ask(address, "ps", "-eo", "pid=,args=")
    lines = (line.strip().split(" ", 1) for line in said.splitlines())
    return {(pid, args) for pid, args in lines if args.split()[0].strip("[]") not in PASSING}


async def kept(room: Room, machine: Machine, directory: Path) -> Origin:
    """Memory and disk of a machine, which ends."""
    (directory / "memory").mkdir(parents=True)
    await room.machines.halt(machine)
    await room.machines.write_memory(machine, directory / "memory", directory / "mark")
    await room.machines.stop(machine.id)
    assert (directory / "mark").read_text() == boot_id()
    await room.machines.stop(machine.id)
    room.disks.keep(machine.id, directory / "disk")
    memory = MemoryImage(directory / "memory", room.parts.guest.tree, machine.born_as, 0, machine.secret)
    return Origin(directory / "disk", memory)


def going_on(room: Room, origin: Origin) -> MachineSpec:
    return replace(room.spec("runsc"), origin=origin)


async def test_a_machine_goes_on_from_its_memory_on_another_address(room: Room, directory: Path) -> None:
    machine = await room.machines.start(room.spec("runsc"))
    await count_on(machine.address)
    _, shell = await call(machine.address, "terminal", ["sh"])
    await call(machine.address, "talk", "here=42; echo rea''dy", "ready")
    ran, reached = await processes(machine.address), await counted(machine.address)

    origin = await kept(room, machine, directory / "kept")
    assert not room.machines.alive(machine)
    written = int((directory / "kept/disk/upper/workspace/count").read_text())
    assert written >= reached
    spec = going_on(room, origin)
    restored = await room.machines.start(spec)
    await room.machines.destroy(machine.id)

    assert (restored.id, restored.born_as, restored.secret) == (spec.id, machine.id, machine.secret)
    assert restored.address != machine.address
    assert await processes(restored.address) == ran
    assert any(pid == shell for pid, _ in ran)
    _, said = await call(restored.address, "talk", "echo $here-$$-d''one", "-done")
    assert f"42-{shell}-done" in said
    await count_passes(restored.address, written)
    assert int((directory / "kept/disk/upper/workspace/count").read_text()) == written


async def test_one_memory_can_be_gone_on_from_twice(room: Room, directory: Path) -> None:
    machine = await room.machines.start(room.spec("runsc"))
    await call(machine.address, "terminal", ["sh"])
    await call(machine.address, "talk", "here=42; echo rea''dy", "ready")
    origin = await kept(room, machine, directory / "kept")
    forks = [await room.machines.start(going_on(room, origin)) for _ in range(2)]
    for number, fork in enumerate(forks):
        await call(fork.address, "talk", f"here=$((here+{number})); echo rea''dy", "ready")
    answers = [(await call(fork.address, "talk", "echo is-$here-d''one", "-done"))[1] for fork in forks]
    assert "is-42-done" in answers[0]
    assert "is-43-done" in answers[1]
