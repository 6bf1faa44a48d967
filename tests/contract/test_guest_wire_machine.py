"""The guest and the host side together: handshake, claim, gate, watch, what outlives a guest, and its limits."""

import asyncio
import contextlib
import dataclasses
import json
import os
import secrets
import signal
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from boxkeep_server.guestwire import GuestAddress, GuestPool, GuestProtocolError, GuestRefused, GuestUnreachable
from boxkeep_server.guestwire.answers import parse_process, processes_of
from tests.guests import Commands, GuestProgram, alive, eventually, process_id

pytest_plugins = ["tests.guest_fixtures"]

MIB = 1024 * 1024
Guest = tuple[GuestPool, GuestAddress]
Start = Callable[..., GuestProgram]


async def test_ping_answers_with_the_time(guest: Guest) -> None:
    answer = await guest[0].call(guest[1], {"op": "ping"})
    assert abs(answer["time"] / 1000 - time.time()) < 60


async def test_info_tells_of_the_machine(guest: Guest) -> None:
    answer = await guest[0].call(guest[1], {"op": "info"})
    names = {"version", "uptimeMs", "processes", "terminals", "memoryBytes", "memoryLimitBytes", "diskFreeBytes"}
    assert names < set(answer)
    assert answer["memoryLimitBytes"] > 0


@pytest.mark.parametrize("wrong", [{"secret": b"x" * 32}, {"machine": "n" * 32}, {"epoch": 1}])
async def test_who_cannot_prove_the_secret_machine_and_epoch_gets_nowhere(guest: Guest, wrong: dict[str, Any]) -> None:
    with pytest.raises((GuestRefused, GuestProtocolError)) as refused:
        await guest[0].call(dataclasses.replace(guest[1], **wrong), {"op": "ping"})
    assert getattr(refused.value, "code", "unauthorised") == "unauthorised"


async def test_a_claim_changes_what_opens_the_machine(own_guest: Start, pool: GuestPool) -> None:
    program = own_guest()
    before = program.address
    await pool.call(before, {"op": "ping"})
    secret = secrets.token_bytes(32)
    claim = {"op": "claim", "epoch": 5, "secret": secret.hex(), "hostname": "box", "env": {"TOLD": "yes\n\udcff"}}
    await pool.call(before, claim)
    await pool.call(before, {"op": "ping"})  # open connections stay
    pool.forget(before)
    with pytest.raises(GuestRefused):
        await pool.call(before, {"op": "ping"})
    after = dataclasses.replace(before, epoch=5, secret=secret)
    await pool.call(after, claim)
    commands = Commands(pool, after, str(program.workspace))
    _, out, _ = await commands.run('printf %s "$TOLD"')
    assert out == b"yes\n\xff"
    for older in ({**claim, "epoch": 4}, {**claim, "secret": "ab" * 32}):
        with pytest.raises(GuestRefused) as refused:
            await pool.call(after, older)
        assert refused.value.code == "not_permitted"
    assert socket.gethostname() != "box"


async def test_a_closed_gate_answers_busy_to_all_but_a_few(own_guest: Start, pool: GuestPool) -> None:
    program = own_guest()
    commands = Commands(pool, program.address, str(program.workspace))
    background = await commands.start("sleep 30")
    running = asyncio.create_task(commands.run("sleep 0.3"))
    await eventually(lambda: len(_children(program.pid)) == 2)
    with pytest.raises(GuestRefused) as refused:
        await pool.call(program.address, {"op": "gate", "closed": True})
    assert refused.value.code == "busy"
    await running
    await pool.call(program.address, {"op": "gate", "closed": True})
    for request in ({"op": "process.list"}, {"op": "file.stat", "path": "/"}, commands.request("true")):
        with pytest.raises(GuestRefused) as refused:
            await pool.call(program.address, request)
        assert refused.value.code == "busy"
    for request in ({"op": "ping"}, {"op": "info"}, {"op": "gate", "closed": True}, {"op": "gate", "closed": False}):
        await pool.call(program.address, request)
    assert (await pool.call(program.address, {"op": "process.get", "id": background}))["process"]["state"] == "running"


async def test_closing_the_gate_may_cut_all_off_and_time_stands_while_it_is_closed(
    own_guest: Start, pool: GuestPool
) -> None:
    program = own_guest()
    commands = Commands(pool, program.address, str(program.workspace))
    slow = await commands.start("sleep 0.5; echo done; sleep 30", timeoutMs=1500)
    waiting = asyncio.create_task(commands.wait(slow))
    await pool.call(program.address, {"op": "ping"})
    other = GuestPool()
    with pytest.raises(GuestRefused) as refused:
        await other.call(program.address, {"op": "gate", "closed": True, "part": True, "idle": True})
    assert refused.value.code == "busy"
    assert (await other.call(program.address, {"op": "gate", "closed": True, "part": True}))["lasting"]
    with pytest.raises(GuestUnreachable):
        await waiting
    await asyncio.sleep(2)
    stood = (await other.call(program.address, {"op": "info"}))["processes"]
    assert stood == 1
    await other.call(program.address, {"op": "gate", "closed": False})
    ended = await commands.wait(slow)
    await other.close()
    assert ended["outcome"] == "timed_out"
    assert 1500 <= ended["durationMs"] < 3400


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


async def test_watching_tells_what_finished_and_can_be_taken_up_again(own_guest: Start, pool: GuestPool) -> None:
    program = own_guest()
    commands = Commands(pool, program.address, str(program.workspace))
    first = await commands.start("exit 1")
    await commands.wait(first)
    async with pool.download(program.address, {"op": "watch", "after": 0}) as download:
        seen = aiter(download)
        event = (await anext(seen)).json()
        assert (event["seq"], event["event"], parse_process(event["process"]).id) == (1, "process.finished", first)
        second = await commands.start("exit 2")
        event = (await anext(seen)).json()
        assert (event["seq"], event["process"]["id"], event["process"]["exitCode"]) == (2, second, 2)
    async with pool.download(program.address, {"op": "watch", "after": 1}) as download:
        assert (await anext(aiter(download))).json()["seq"] == 2


async def test_odd_requests_are_refused_and_the_connection_lives_on(guest: Guest) -> None:
    pool, address = guest
    good = {"op": "process.start", "id": process_id(), "command": "true", "args": [], "cwd": "/"}
    odd: list[dict[str, Any]] = [
        {}, {"op": 5}, {"op": "nothing"}, {"op": ["ping"]}, {"op": "process.get"}, {"op": "process.get", "id": "../x"},
        {**good, "command": "a\0b"}, {**good, "args": "x"}, {**good, "args": [1]}, {**good, "env": {"a=b": "c"}},
        {**good, "env": []}, {**good, "stdin": "!"}, {**good, "timeoutMs": 0}, {**good, "timeoutMs": 1.5},
        {**good, "pty": {"rows": 0, "cols": 1}}, {**good, "answer": "maybe"}, {**good, "tail": -1},
        {**good, "command": "\ud800"}, {**good, "command": "", "args": []}, {**good, "user": "\0"},
        {"op": "process.signal", "id": "0" * 32, "signal": 65}, {"op": "port.dial", "port": 0}, {"op": "gate"},
        {"op": "claim", "epoch": 0}, {"op": "process.list", "limit": 0}, {"op": "file.write", "path": "/x", "mode": -1},
    ]  # fmt: skip
    for request in odd:
        with pytest.raises(GuestRefused, match=r"^(bad_request|unknown_op): "):
            pytest.fail(f"{request} was answered with {await pool.call(address, request)}")
    assert len(next(iter(pool._machines.values())).open) == 1


async def test_a_peer_that_breaks_the_bounds_is_cut_off_and_the_guest_lives(
    guest: Guest, guest_program: GuestProgram
) -> None:
    for rubbish in (
        b"GET / HTTP/1.1\r\n\r\n", struct.pack(">IB", 20_000, 1), struct.pack(">IB", 5, 2) + b"bytes",
        struct.pack(">IB", 2, 1) + b"[]", struct.pack(">IB", 10_000, 1) + b"[" * 10_000, os.urandom(5000),
        struct.pack(">IB", 2, 1) + b"{}",
    ):  # fmt: skip
        reader, writer = await asyncio.open_connection(guest[1].host, guest[1].port)
        writer.write(rubbish)
        async with asyncio.timeout(10):
            try:
                while await reader.read(65536):
                    pass
            except ConnectionResetError:
                pass
        writer.close()
    await guest[0].call(guest[1], {"op": "ping"})


async def test_strangers_cannot_take_the_places_of_those_who_are_known(guest: Guest) -> None:
    await guest[0].call(guest[1], {"op": "ping"})
    strangers = [await asyncio.open_connection(guest[1].host, guest[1].port) for _ in range(100)]
    await guest[0].call(guest[1], {"op": "ping"})
    for _, writer in strangers:
        writer.close()
    fresh = GuestPool()

    async def answers() -> None:
        while True:
            try:
                await fresh.call(guest[1], {"op": "ping"})
            except GuestUnreachable:
                await asyncio.sleep(0.05)
            else:
                return

    await asyncio.wait_for(answers(), 20)
    await fresh.close()


async def test_a_stranger_who_says_nothing_is_cut_off(guest: Guest) -> None:
    reader, writer = await asyncio.open_connection(guest[1].host, guest[1].port)
    with contextlib.closing(writer):
        async with asyncio.timeout(60):  # the guest allows 20 s
            while await reader.read(65536):
                pass


async def test_records_and_output_outlive_the_guest(own_guest: Start, pool: GuestPool) -> None:
    program = own_guest()
    commands = Commands(pool, program.address, str(program.workspace))
    record, _, _ = await commands.run("echo kept; exit 7")
    unfinished = await commands.start("echo half; sleep 100")
    await eventually((program.log / unfinished / "record.json").exists)
    pids = [int(pid) for pid in _children(program.pid)]
    program.stop(signal.SIGKILL)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    program.start()
    listed, _ = processes_of(await pool.call(program.address, {"op": "process.list"}))
    assert [(one.id, one.outcome, one.exit_code) for one in listed] == [
        (record["id"], "exited", 7),
        (unfinished, "signalled", 137),
    ]
    for one, text in ((record["id"], b"kept\n"), (unfinished, b"half\n")):
        _, out, _ = await commands.ask({"op": "process.output", "id": one, "stream": "stdout", "offset": 0})
        assert out == text


async def test_a_log_that_was_tampered_with_is_passed_over(own_guest: Start, pool: GuestPool) -> None:
    program = own_guest()
    program.stop()
    for name, text in (("a" * 32, "{"), ("b" * 32, json.dumps({"id": "b" * 32})), ("c" * 32, "[" * 10000)):
        (program.log / name).mkdir()
        (program.log / name / "record.json").write_text(text)
    (program.log / ("d" * 32)).mkdir()
    os.mkfifo(program.log / ("d" * 32) / "record.json")
    program.start()
    assert (await pool.call(program.address, {"op": "process.list"}))["processes"] == []


async def test_a_guest_that_is_ended_ends_what_it_runs(own_guest: Start, pool: GuestPool) -> None:
    program = own_guest()
    commands = Commands(pool, program.address, str(program.workspace))
    await commands.start("env -i setsid sleep 306 & sleep 307")
    await eventually(lambda: len(_children(program.pid)) == 1)
    pids = [int(pid) for pid in _children(program.pid)]
    program.stop()
    await eventually(lambda: not any(alive(pid) for pid in pids))
    assert program.errors() == ""


async def test_the_guests_memory_is_closed_to_others(commands: Commands, guest_program: GuestProgram) -> None:
    _, out, _ = await commands.run(f"stat -c %U /proc/{guest_program.pid}/environ", user="daemon", cwd="/")
    assert out == b"root\n"
    _, _, err = await commands.run(f"cat /proc/{guest_program.pid}/environ", user="daemon", cwd="/")
    assert b"Permission denied" in err


async def test_a_hog_is_ended_before_its_sandbox_is(own_guest: Start, pool: GuestPool, tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 1048576 kB\nAnonPages: 1000 kB\n")
    program = own_guest(runtime="runsc", memoryLimitBytes=512 * MIB, meminfo=str(meminfo))
    commands = Commands(pool, program.address, str(program.workspace))
    small = await commands.start("sleep 60")
    program_text = "import time; x = b'x' * 90_000_000; time.sleep(60)"
    hog = await commands.start(f'(/usr/bin/python3 -I -S -c "{program_text}"); true')
    await eventually(lambda: any(_rss(int(pid)) > 80 * MIB for pid in _descendants(program.pid)))
    meminfo.write_text("MemTotal: 1048576 kB\nAnonPages: 520000 kB\n")
    async with pool.download(program.address, {"op": "watch", "after": 0}) as download:
        event = (await anext(aiter(download))).json()
    meminfo.write_text("MemTotal: 1048576 kB\nAnonPages: 1000 kB\n")
    assert (event["event"], event["id"]) == ("memory.killed", hog)
    assert (await commands.wait(hog))["outcome"] == "out_of_memory"
    assert (await commands.wait(small, 0))["state"] == "running"


async def test_a_crowd_is_ended_before_it_starves_its_sandbox(own_guest: Start, pool: GuestPool) -> None:
    most = os.stat("/proc").st_nlink + 500  # on the host all processes count, and others come and go
    program = own_guest(runtime="runsc", processLimit=most)
    commands = Commands(pool, program.address, str(program.workspace))
    small = await commands.start("sleep 60")
    crowd = await commands.start("for n in $(seq 1000); do (trap '' TERM; setsid sleep 60) & done; wait")
    async with pool.download(program.address, {"op": "watch", "after": 0}) as download:
        event = (await anext(aiter(download))).json()
    assert (event["event"], event["id"]) == ("processes.killed", crowd)
    ended = await commands.wait(crowd)
    assert (ended["outcome"], ended["reason"]) == ("signalled", f"The sandbox had more than {most} processes")
    assert (await commands.wait(small, 0))["state"] == "running"
    await eventually(lambda: len(_descendants(program.pid)) < 10)


def _descendants(pid: int) -> list[str]:
    found = []
    for child in _children(pid):
        try:
            found += [child, *_descendants(int(child))]
        except OSError:
            continue
    return found


def _rss(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0


async def test_a_full_disk_still_lets_commands_run(own_guest: Start, pool: GuestPool, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.mkdir()
    await _run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(log))
    try:
        program = own_guest(log=str(log))
        commands = Commands(pool, program.address, str(program.workspace))
        record, out, _ = await commands.run("head -c 5000000 /dev/zero; echo end", tail=1000)
        assert record["stdoutBytes"] == 5_000_004
        assert record["droppedBytes"] > 3_000_000
        assert out.endswith(b"end\n")
        record, out, _ = await commands.run("echo still works")
        assert (record["exitCode"], out) == (0, b"still works\n")
        program.stop()
    finally:
        await _run("umount", str(log))


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == 0
