"""A way to the guest that breaks while a command begins: it runs once, and its client hears how it ended."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from boxkeep_server.guestwire import GuestAddress
from tests.api.stage import Stage
from tests.guests import GuestProgram

START = b"process.start"


@asynccontextmanager
async def breaking(guest: GuestAddress, *, arrives: bool, times: int) -> AsyncIterator[GuestAddress]:
    """A way to a guest that breaks at the first calls to start something, before or after they have arrived."""
    left = times

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        while data := await reader.read(1 << 16):
            breaks = left > 0 and START in data
            if arrives or not breaks:
                writer.write(data)
                await writer.drain()
            if breaks:
                left -= 1
                return

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection(guest.host, guest.port)
        ways = [asyncio.create_task(carry(reader, inner_writer)), asyncio.create_task(carry(inner_reader, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            writer.close()
            inner_writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield replace(guest, host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    finally:
        server.close()


@pytest.mark.parametrize("arrives", [False, True])
async def test_a_command_whose_start_was_cut_off_runs_once_and_is_answered(
    stage: Stage, api: httpx.AsyncClient, key: str, guest_program: GuestProgram, tmp_path: Path, arrives: bool
) -> None:
    traces = tmp_path / "traces"
    async with breaking(guest_program.address, arrives=arrives, times=1) as way:
        box = await stage.ready_sandbox(key, way)
        answer = await api.post(
            "/v1/sandboxes/exec", json={"id": box, "command": f"echo ran >> {traces}; sleep 0.2; echo done", "cwd": "/"}
        )
    assert answer.status_code == 200, answer.text
    assert (answer.json()["outcome"], answer.json()["stdout"]) == ("exited", "done\n")
    assert traces.read_text() == "ran\n"


async def test_a_command_that_never_arrives_is_told_as_a_way_that_is_broken(
    stage: Stage, api: httpx.AsyncClient, key: str, guest_program: GuestProgram, tmp_path: Path
) -> None:
    async with breaking(guest_program.address, arrives=False, times=1000) as way:
        box = await stage.ready_sandbox(key, way)
        answer = await api.post("/v1/sandboxes/exec", json={"id": box, "command": f"touch {tmp_path}/x", "cwd": "/"})
    assert (answer.status_code, answer.json()) == (503, {"error": "The sandbox cannot be reached"})
    assert not (tmp_path / "x").exists()
