"""One body of a node for all tests of this directory, and the count of traces around each."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.system.body.rooms import Room


@pytest.fixture(scope="package")
def opened_room(request: pytest.FixtureRequest) -> Iterator[Room]:
    """A room whose disks are a pool, or what the test has for its parameter."""
    with tempfile.TemporaryDirectory(prefix="boxkeep-room-", dir="/var/tmp") as directory:
        Path(directory).chmod(0o755)
        room = Room(Path(directory), disks=getattr(request, "param", "pool"))
        try:
            room.open()
            yield room
        finally:
            room.close()


@pytest.fixture
async def room(opened_room: Room) -> AsyncIterator[Room]:
    """The room, with nothing of any machine left in it after the test."""
    before = opened_room.traces()
    try:
        yield opened_room
    finally:
        for machine in opened_room.machines.found():
            await opened_room.machines.destroy(machine)
    assert opened_room.traces() == before


@pytest.fixture
def directory(opened_room: Room, request: pytest.FixtureRequest) -> Path:
    """A directory beside the disks for what a test keeps there."""
    path: Path = opened_room.disks.volume.mount / request.node.name.replace("[", "-").rstrip("]")
    path.mkdir()
    return path
