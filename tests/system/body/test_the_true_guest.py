from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from boxkeep_server.guestwire import GuestAddress, GuestPool
from boxkeep_server.model.ids import new_id
from boxkeep_server.model.node_api import Isolation
from boxkeep_server.node import oci
from boxkeep_server.node.bundle import build_bundle
from boxkeep_server.node.machines import Machines
from boxkeep_server.node.parts import Guest
from tests.system.body.rooms import ISOLATIONS, Room

GUEST = Path(__file__).parents[3] / "guest" / "boxkeep_guest"


@pytest.fixture(scope="package")
def with_guest(opened_room: Room) -> Machines:
    bundle = build_bundle(opened_room.lib / "guests", GUEST)
    guest = Guest(bundle.path, tuple(bundle.command(oci.GUEST)))
    return Machines(opened_room.lib, opened_room.run, replace(opened_room.parts, guest=guest))


@pytest.mark.parametrize("isolation", ISOLATIONS)
async def test_the_true_guest_serves_the_wire_and_takes_a_claim(
    room: Room, with_guest: Machines, isolation: Isolation
) -> None:
    machine = await with_guest.start(room.spec(isolation))
    pool = GuestPool()
    try:
        born = GuestAddress(machine.address, machine.port, machine.born_as, 0, bytes.fromhex(machine.secret))
        info = await pool.call(born, {"op": "info"})
        assert info["memoryLimitBytes"] == room.spec().ceilings.memory_bytes
        claim = {"op": "claim", "epoch": 1, "secret": "ab" * 32, "hostname": "claimed", "env": {"GREETING": "hello"}}
        await pool.call(born, claim)
        await with_guest.rename(machine, "claimed")
        claimed = replace(born, epoch=1, secret=bytes.fromhex("ab" * 32))
        line = "echo $GREETING $(hostname); grep CapBnd /proc/self/status; grep CapEff /proc/self/status"
        start: dict[str, Any] = {
            "op": "process.start",
            "id": new_id(),
            "command": line,
            "args": None,
            "cwd": "/workspace",
            "env": {},
        }
        more = {"user": "root", "stdin": None, "keepStdin": False, "timeoutMs": 10_000, "background": True, "pty": None}
        process = await pool.call(claimed, {**start, **more, "answer": "started", "tail": 0})
        assert process["process"]["state"] in ("running", "finished")
        await pool.call(claimed, {"op": "process.wait", "id": start["id"], "timeoutMs": 10_000})
        said = (room.disks.path(machine.id) / "log" / str(start["id"]) / "stdout").read_text().splitlines()
        assert said[0] == "hello claimed"
        assert said[1].split()[1] == said[2].split()[1]
        assert int(said[2].split()[1], 16) & 1 << 21 == 0
    finally:
        await pool.close()
