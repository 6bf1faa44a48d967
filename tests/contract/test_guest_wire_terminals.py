"""The guest and the host side together: terminals and ports."""

import asyncio
from collections.abc import Callable

import pytest

from boxkeep_server.guestwire import DATA, JSON, Duplex, GuestPool, GuestRefused
from boxkeep_server.guestwire.answers import process_of
from tests.guests import Commands, GuestProgram, resident

pytest_plugins = ["tests.guest_fixtures"]

MIB = 1024 * 1024


async def terminal(commands: Commands, script: str) -> str:
    return await commands.start(script, pty={"rows": 24, "cols": 80}, timeoutMs=None)


async def until(duplex: Duplex, text: bytes) -> bytes:
    seen = bytearray()
    async with asyncio.timeout(20):
        async for frame in duplex:
            if frame.kind == DATA:
                seen += frame.payload
                if text in seen[-len(frame.payload) - len(text) :]:
                    return bytes(seen)
    raise AssertionError(f"the terminal ended without {text!r}: {bytes(seen[-500:])!r}")


def attach(process: str) -> dict[str, str]:
    return {"op": "process.attach", "id": process}


async def test_a_terminal_is_one(commands: Commands) -> None:
    process = await terminal(commands, "tty; stty size; read line; echo got:$line; exec 3</dev/tty && echo controlling")
    async with commands.pool.duplex(commands.address, attach(process)) as duplex:
        await until(duplex, b"24 80\r\n")
        await duplex.send_data(b"typed\r")
        assert b"got:typed\r\n" in await until(duplex, b"controlling")
        last = [frame async for frame in duplex if frame.kind == JSON][-1]
    assert process_of(last.json()).exit_code == 0
    _, out, _ = await commands.ask({"op": "process.output", "id": process, "stream": "stdout", "offset": 0})
    assert out.startswith(b"/dev/pts/")


async def test_control_c_interrupts_and_a_new_size_is_announced(commands: Commands) -> None:
    script = "trap 'stty size' WINCH; trap 'echo interrupted; exit 3' INT; echo ready; while :; do sleep 0.05; done"
    process = await terminal(commands, script)
    async with commands.pool.duplex(commands.address, {**attach(process), "rows": 25, "cols": 81}) as duplex:
        await until(duplex, b"ready")
        await duplex.send_json({"resize": {"rows": 50, "cols": 132}})
        await until(duplex, b"50 132")
        await commands.pool.call(commands.address, {"op": "process.resize", "id": process, "rows": 10, "cols": 20})
        await until(duplex, b"10 20")
        await duplex.send_data(b"\x03")
        await until(duplex, b"interrupted")
    assert (await commands.wait(process))["exitCode"] == 3


async def test_several_clients_share_it_and_who_rejoins_gets_scrollback(commands: Commands) -> None:
    process = await terminal(commands, "stty -echo; while read line; do echo said:$line; done")
    async with (
        commands.pool.duplex(commands.address, attach(process)) as one,
        commands.pool.duplex(commands.address, attach(process)) as two,
    ):
        await one.send_data(b"first\r")
        await until(one, b"said:first")
        await until(two, b"said:first")
    async with commands.pool.duplex(commands.address, attach(process)) as again:
        assert again.answer["scrollback"] > 0
        assert b"said:first" in await until(again, b"said:first")
        await again.send_data(b"\x04")
        async for _ in again:
            pass
    record = await commands.wait(process)
    assert record["outcome"] == "exited"
    async with commands.pool.duplex(commands.address, attach(process)) as late:
        assert b"said:first" in await until(late, b"said:first")


async def test_a_slow_client_is_no_hindrance(commands: Commands, guest_program: GuestProgram) -> None:
    process = await terminal(commands, "head -c 30000000 /dev/zero | tr '\\0' x; echo; echo all-written; sleep 60")
    async with (
        commands.pool.duplex(commands.address, attach(process)) as slow,
        commands.pool.duplex(commands.address, attach(process)) as quick,
    ):
        await until(quick, b"all-written")
        assert slow.answer["process"]["state"] == "running"
    assert resident(guest_program.pid) < 100 * MIB
    await commands.pool.call(
        commands.address, {"op": "process.signal", "id": process, "signal": 9, "tree": True, "cancel": True}
    )
    assert (await commands.wait(process))["outcome"] == "cancelled"


async def test_scrollback_is_the_last_mebibyte(commands: Commands) -> None:
    process = await terminal(commands, "head -c 3000000 /dev/zero | tr '\\0' x; echo end")
    await commands.wait(process)
    async with commands.pool.duplex(commands.address, attach(process)) as duplex:
        assert duplex.answer["scrollback"] == MIB
        seen = b"".join([frame.payload async for frame in duplex if frame.kind == DATA])
    assert seen.endswith(b"xend\r\n")
    assert len(seen) == MIB


async def test_a_terminal_of_another_user_belongs_to_that_user(commands: Commands) -> None:
    process = await commands.start(
        "test -O $(tty) && echo mine; echo $TERM", pty={"rows": 5, "cols": 5}, user="daemon", cwd="/"
    )
    await commands.wait(process)
    _, out, _ = await commands.ask({"op": "process.output", "id": process, "stream": "stdout", "offset": 0})
    assert out == b"mine\r\nxterm-256color\r\n"


async def test_what_has_no_terminal_cannot_be_attached_to(commands: Commands) -> None:
    process = await commands.start("sleep 0.2")
    with pytest.raises(GuestRefused) as refused:
        async with commands.pool.duplex(commands.address, attach(process)):
            pass
    assert refused.value.code == "bad_request"


async def test_a_thirty_third_client_is_refused(commands: Commands) -> None:
    process = await terminal(commands, "sleep 60")
    held = [commands.pool.duplex(commands.address, attach(process)) for _ in range(32)]
    for one in held:
        await one.__aenter__()
    with pytest.raises(GuestRefused) as refused:
        async with commands.pool.duplex(commands.address, attach(process)):
            pass
    assert refused.value.code == "limit"
    for one in held:
        await one.__aexit__(None, None, None)
    await commands.pool.call(commands.address, {"op": "process.signal", "id": process, "signal": 9})


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_a_port_inside_is_reached_on_both_loopbacks(commands: Commands, address: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"got " + await reader.read())
        writer.close()

    server = await asyncio.start_server(serve, address, 0)
    port = server.sockets[0].getsockname()[1]
    async with commands.pool.duplex(commands.address, {"op": "port.dial", "port": port}) as duplex:
        await duplex.send_data(b"x" * 300_000)
        await duplex.send_end()
        answer = b"".join([frame.payload async for frame in duplex])
    assert answer == b"got " + b"x" * 300_000
    server.close()


async def test_a_port_where_nothing_listens_says_so(commands: Commands) -> None:
    with pytest.raises(GuestRefused) as refused:
        async with commands.pool.duplex(commands.address, {"op": "port.dial", "port": 1}):
            pass
    assert refused.value.code == "not_running"


async def test_where_the_kernel_is_silent_the_guest_announces_a_new_size(
    own_guest: Callable[..., GuestProgram], pool: GuestPool
) -> None:
    program = own_guest(runtime="runsc", memoryLimitBytes=1 << 50)
    commands = Commands(pool, program.address, str(program.workspace))
    process = await terminal(commands, "trap 'echo winch' WINCH; echo ready; while :; do sleep 0.05; done")
    async with pool.duplex(program.address, attach(process)) as duplex:
        await until(duplex, b"ready")
        await duplex.send_json({"resize": {"rows": 24, "cols": 80}})  # no change: no kernel sends a signal
        await until(duplex, b"winch")


async def test_what_listens_is_listed_with_its_process_and_without_the_wires_own_port(
    commands: Commands, guest_program: GuestProgram
) -> None:
    held = "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)"
    process = await commands.start("python3", ["-c", f"{held}; time.sleep(60)"])
    follow = {"op": "process.follow", "id": process, "stdoutOffset": 0, "stderrOffset": 0}
    async with commands.pool.download(commands.address, follow) as output:
        port = int((await anext(aiter(output))).payload)
    listeners = (await commands.pool.call(commands.address, {"op": "port.list"}))["listeners"]
    pid = (await commands.pool.call(commands.address, {"op": "process.get", "id": process}))["process"]["pid"]
    (answer,) = [one for one in listeners if one["port"] == port]
    assert answer == {"address": "127.0.0.1", "port": port, "pid": pid, "process": "python3"}
    assert guest_program.address.port not in [one["port"] for one in listeners]


async def test_the_wires_own_port_is_not_dialled(commands: Commands, guest_program: GuestProgram) -> None:
    with pytest.raises(GuestRefused) as refused:
        async with commands.pool.duplex(commands.address, {"op": "port.dial", "port": guest_program.address.port}):
            raise AssertionError("it was")
    assert refused.value.code == "not_permitted"


async def test_what_a_program_said_before_it_stopped_taking_is_heard(commands: Commands) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.write(b"no more")
        await writer.drain()
        writer.close()  # with bytes unread: the kernel resets the connection

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with commands.pool.duplex(commands.address, {"op": "port.dial", "port": port}) as duplex:
        await duplex.send_data(b"x" * MIB)
        heard = b"".join([frame.payload async for frame in duplex])
    assert heard == b"no more"
    server.close()
