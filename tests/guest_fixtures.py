"""Fixtures of real guests: a test module asks for them by `pytest_plugins = ["tests.guest_fixtures"]`."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from boxkeep_server.guestwire import GuestAddress, GuestPool

from tests.guests import Commands, GuestProgram


@pytest.fixture(scope="module")
def guest_program() -> Iterator[GuestProgram]:
    """One guest for all tests of a module; its stderr must stay empty."""
    directory = Path(tempfile.mkdtemp(prefix="boxkeep-guest-"))
    directory.chmod(0o755)
    program = GuestProgram(directory)
    yield program
    program.stop()
    errors = program.errors()
    shutil.rmtree(directory)
    assert errors == "", errors


@pytest.fixture
def own_guest(tmp_path: Path) -> Iterator[Callable[..., GuestProgram]]:
    """A function that starts a guest of the test's own, with fields of the boot file."""
    made: list[GuestProgram] = []

    def start(**boot: Any) -> GuestProgram:
        directory = tmp_path / f"guest{len(made)}"
        directory.mkdir()
        made.append(GuestProgram(directory, **boot))
        return made[-1]

    yield start
    for program in made:
        program.stop()


@pytest_asyncio.fixture
async def pool() -> AsyncIterator[GuestPool]:
    """A pool of the test's own."""
    made = GuestPool()
    yield made
    await made.close()


@pytest.fixture
def guest(guest_program: GuestProgram, pool: GuestPool) -> tuple[GuestPool, GuestAddress]:
    """A pool and the address of the module's guest."""
    return pool, guest_program.address


@pytest.fixture
def commands(guest_program: GuestProgram, pool: GuestPool) -> Commands:
    """Commands in the module's guest."""
    return Commands(pool, guest_program.address, str(guest_program.workspace))
