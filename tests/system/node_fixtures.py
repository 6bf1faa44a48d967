"""A node daemon for a test, in a directory of its own."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.system.node_process import Node, end


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that roots of user namespaces may pass through, as pytest's may not be."""
    with tempfile.TemporaryDirectory(prefix="boxkeep-node-", dir="/var/tmp") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture(scope="module")
def bundles() -> Iterator[Path]:
    """Where the guest's bundle is built once."""
    with tempfile.TemporaryDirectory(prefix="boxkeep-bundles-", dir="/var/tmp") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest_asyncio.fixture
async def node(directory: Path, bundles: Path, request: pytest.FixtureRequest) -> AsyncIterator[Node]:
    """A node whose disks are a pool, or what the test has for its parameter."""
    one = Node(directory, bundles, {}, disks=getattr(request, "param", "pool"))
    try:
        await one.start()
        yield one
    finally:
        await end(one)
