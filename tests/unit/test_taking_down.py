"""What is left when an instance is taken down and one of its machines does not go."""

from pathlib import Path

import pytest

from boxkeep_server.node.daemon import end_each
from boxkeep_server.node.files import files_in
from boxkeep_server.node.layer import LastWords, MachineFailed
from tests.node_hosts import Host
from tests.node_layers import Layer
from tests.node_worlds import adopted, wish


class OneStays(Layer):
    """One of the machines does not go."""

    def __init__(self, host: Host, stays: str) -> None:
        super().__init__(host)
        self.stays = stays

    async def destroy(self, machine: str) -> dict[str, LastWords]:
        if machine == self.stays:
            raise MachineFailed(f"the processes of {machine} do not go")
        return await super().destroy(machine)


async def test_a_machine_that_does_not_go_keeps_no_other_from_going(tmp_path: Path) -> None:
    host = Host(tmp_path)
    service = await adopted(Layer(host))
    machines = [(await service.claims.claim(wish())).machine for _ in range(5)]
    await service.crew.dismiss()
    files = files_in(tmp_path)
    with pytest.raises(MachineFailed, match=machines[2]):
        await end_each(OneStays(host, machines[2]), files, machines)
    assert set(host.bodies) == {machines[2]}
    assert [binding.machine for binding in files.bindings.load()] == [machines[2]]
    await end_each(Layer(host), files, machines)
    assert host.bodies == {}
    assert files.bindings.load() == []
