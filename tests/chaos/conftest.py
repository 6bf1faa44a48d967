"""The one service that all faults of its ground are tried on, one after another."""

from collections.abc import Iterator

import pytest

from tests.chaos.grounds import Ground, standing


@pytest.fixture(scope="package")
def ground() -> Iterator[Ground]:
    """A service whose database, blobs and clock are in our hands."""
    with standing("g") as made:
        yield made
