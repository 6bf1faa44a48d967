import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from boxkeep_server.model.ids import new_id
from boxkeep_server.model.node_api import Isolation
from tests.system.body.rooms import ISOLATIONS, Room, ask

POINTS_MS = {"runc": (0, 3, 6, 9, 12, 16, 20, 30, 45, 60, 90), "runsc": (5, 40, 80, 120, 160, 200, 250, 300, 400)}


@asynccontextmanager
async def starter(room: Room, isolation: Isolation, machine: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that starts a machine, from the moment on at which it begins; killed at the end."""
    argv = ("-m", "tests.system.body.starter", str(room.lib.parent), isolation, machine, "100")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, *argv, stdout=asyncio.subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"begins\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize(
    ("isolation", "point_ms"), [(isolation, point) for isolation in ISOLATIONS for point in POINTS_MS[isolation]]
)
async def test_a_starter_killed_at_any_point_leaves_what_can_be_found_and_removed(
    room: Room, isolation: Isolation, point_ms: int
) -> None:
    machine = new_id()
    before = room.traces()
    async with starter(room, isolation, machine):
        await asyncio.sleep(point_ms / 1000)
    assert set(room.machines.found()) <= {machine}
    await room.machines.destroy(machine)
    assert room.traces() == before


@pytest.mark.parametrize("isolation", ISOLATIONS)
async def test_a_machine_outlives_its_starter_and_is_taken_over(room: Room, isolation: Isolation) -> None:
    async with starter(room, isolation, new_id()) as process:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"is up\n"
    (found,) = room.machines.found()
    machine = room.machines.read(found)
    assert machine is not None
    assert room.machines.alive(machine)
    assert await ask(machine.address, "echo", "still here") == (0, "still here\n")
    waiting = asyncio.create_task(room.machines.exited(machine))
    await room.machines.destroy(machine.id)
    async with asyncio.timeout(5):
        await waiting
