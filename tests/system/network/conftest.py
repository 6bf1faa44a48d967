from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from boxkeep_server.node import netns
from boxkeep_server.node.network import Network
from tests.system.network.world import HOST, INSIDE, OPENED, OTHER_PUBLIC, PUBLIC, SUBNET, Listeners


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The host's loopback and its link to the outside."""
    outside = tmp_path_factory.mktemp("world") / "outside"
    netns.make(outside, lambda: None)
    netns.ip(
        "link set lo up",
        f"link add out0 type veth peer name out1 netns {outside}",
        f"addr add {HOST}/24 dev out0",
        "link set out0 up",
        "route add default via 198.51.100.2",
    )

    def behind() -> None:
        addresses = (PUBLIC, OTHER_PUBLIC, OPENED, *INSIDE)
        netns.ip(
            "link set lo up",
            "addr add 198.51.100.2/24 dev out1",
            *(f"addr add {address}/32 dev lo" for address in addresses),
            "link set out1 up",
        )

    netns.within(outside, behind)
    listeners = Listeners(outside, (PUBLIC, OTHER_PUBLIC, OPENED, *INSIDE), 80)
    smtp = Listeners(outside, (PUBLIC,), 25)
    yield outside
    listeners.close()
    smtp.close()
    netns.remove(outside)


@pytest_asyncio.fixture
async def network(tmp_path: Path, world: Path) -> AsyncIterator[Network]:
    made = Network("hnet", SUBNET, tmp_path, uids=[0], opened=[(OPENED, 80)])
    await made.setup()
    yield made
    await made.teardown()
    assert not (tmp_path / "net").exists()
    assert "boxkeep" not in netns.run(["nft", "list", "tables"])
    assert "uhneth" not in netns.run(["ip", "link"])
