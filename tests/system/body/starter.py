"""Starts a machine in a process of its own, to be killed at any point; says when it begins and when it is up."""

import asyncio
import dataclasses
import sys
from pathlib import Path
from typing import cast

from boxkeep_server.model.node_api import Isolation
from tests.system.body.rooms import Room


async def start(room: Room, isolation: str, machine: str) -> None:
    spec = dataclasses.replace(room.spec(cast(Isolation, isolation)), id=machine)
    print("begins", flush=True)
    await room.machines.start(spec)
    print("is up", flush=True)
    await asyncio.sleep(600)


def main(directory: str, isolation: str, machine: str, index: str) -> None:
    room = Room(Path(directory), int(index))
    room.open()
    asyncio.run(start(room, isolation, machine))


main(*sys.argv[1:])
