"""The guest and the host side together: processes, from start to their one outcome."""

import asyncio
import base64
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from boxkeep_server.guestwire import GuestRefused
from boxkeep_server.guestwire.answers import process_of, processes_of
from tests.guests import Commands, GuestProgram, alive, eventually, process_id, resident

pytest_plugins = ["tests.guest_fixtures"]

MIB = 1024 * 1024


async def test_a_command_gives_its_output_and_exit_code(commands: Commands) -> None:
    record, out, err = await commands.run("echo out; echo err >&2; exit 3")
    assert (out, err) == (b"out\n", b"err\n")
    process = process_of({"process": record})
    assert (process.outcome, process.exit_code, process.signal) == ("exited", 3, None)
    assert (process.stdout_bytes, process.stderr_bytes, process.dropped_bytes) == (4, 4, 0)
    assert process.state == "finished"
    assert process.ended_at is not None
    assert process.ended_at >= process.started_at


async def test_a_line_without_args_is_read_by_a_login_shell(commands: Commands) -> None:
    request = commands.request("x", [], env={"HOME": "/nonexistent"})
    _, out, _ = await commands.ask({**request, "command": "shopt -q login_shell && echo login", "args": None})
    assert out == b"login\n"


async def test_a_path_given_on_purpose_outlives_the_login_profile(commands: Commands) -> None:
    request = commands.request("x", [], env={"HOME": "/nonexistent", "PATH": "/opt/odd dir/bin:/usr/bin:/bin"})
    _, out, _ = await commands.ask({**request, "command": 'echo "$PATH"', "args": None})
    assert out == b"/opt/odd dir/bin:/usr/bin:/bin\n"


async def test_arguments_carry_any_bytes_but_nul(commands: Commands) -> None:
    raw = bytes(range(1, 256))
    _, out, _ = await commands.run("printf", ["%s", raw.decode("utf-8", "surrogateescape")])
    assert out == raw


async def test_output_may_be_any_bytes(commands: Commands) -> None:
    _, out, _ = await commands.run("head -c 300000 /dev/urandom | tee copy; exit 0")
    assert out == (Path(commands.cwd) / "copy").read_bytes()


@pytest.mark.parametrize(("command", "code"), [("no-such-program", 127), ("/etc/passwd", 126), ("/", 126)])
async def test_what_cannot_be_executed_exits_as_shells_have_it(commands: Commands, command: str, code: int) -> None:
    record, _, err = await commands.run(command, [])
    assert (record["outcome"], record["exitCode"]) == ("exited", code)
    assert command.encode() in err
    record, _, _ = await commands.run(f"{command}")
    assert record["exitCode"] == code


async def test_a_signal_is_told_and_counts_as_128_and_its_number(commands: Commands) -> None:
    record, _, _ = await commands.run("kill -SEGV $$")
    assert (record["outcome"], record["exitCode"], record["signal"]) == ("signalled", 139, 11)


async def test_a_bad_directory_is_refused_before_anything_starts(commands: Commands) -> None:
    for cwd in ("/no/such", "relative", "/etc/passwd"):
        request = commands.request("touch started", cwd=cwd)
        with pytest.raises(GuestRefused) as refused:
            await commands.ask(request)
        assert refused.value.code == "bad_cwd"
        with pytest.raises(GuestRefused) as refused:
            await commands.pool.call(commands.address, {"op": "process.get", "id": request["id"]})
        assert refused.value.code == "not_found"


async def test_a_bad_user_is_refused(commands: Commands) -> None:
    with pytest.raises(GuestRefused) as refused:
        await commands.run("true", user="nobody-of-that-name")
    assert refused.value.code == "bad_user"


async def test_root_is_the_user_unless_another_is_named(commands: Commands) -> None:
    shown = 'echo "$(id -u) $(id -g) $(id -G) $HOME $USER $LOGNAME"'
    _, out, _ = await commands.run(shown)
    assert out == b"0 0 0 /root root root\n"
    record, out, _ = await commands.run(shown, user="daemon", cwd="/")
    assert out == b"1 1 1 /usr/sbin daemon daemon\n"
    assert record["user"] == "daemon"
    _, out, _ = await commands.run("id -u", user="12345", cwd="/")
    assert out == b"12345\n"


async def test_the_environment_is_plain_with_the_calls_own_on_top(commands: Commands) -> None:
    os.environ["LEAKED_FROM_HOST"] = "yes"
    _, out, _ = await commands.run("env", [], env={"MINE": "a=b\nc", "LANG": "C"})
    assert b"MINE=a=b\nc\n" in out
    assert b"LANG=C\n" in out
    assert b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n" in out
    assert b"LEAKED" not in out


async def test_stdin_is_given_inline(commands: Commands) -> None:
    data = os.urandom(400_000)
    _, out, _ = await commands.run("cat", [], stdin=base64.b64encode(data).decode())
    assert out == data
    _, out, _ = await commands.run("cat; echo end")
    assert out == b"end\n"


async def test_stdin_that_nobody_reads_does_no_harm(commands: Commands) -> None:
    record, _, _ = await commands.run("exit 4", stdin=base64.b64encode(b"x" * 500_000).decode())
    assert record["exitCode"] == 4


async def test_stdin_is_kept_open_until_it_is_closed(commands: Commands) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b"y" * 100_000

    process = await commands.start("cat | wc -c", keepStdin=True, stdin=base64.b64encode(b"first").decode())
    stdin = {"op": "process.stdin", "id": process, "close": False}
    answer = await commands.pool.upload(commands.address, stdin, chunks())
    assert answer["written"] == 3_000_000
    await commands.pool.upload(commands.address, {**stdin, "close": True}, chunks())
    assert (await commands.wait(process))["outcome"] == "exited"
    _, out, _ = await commands.ask({"op": "process.output", "id": process, "stream": "stdout", "offset": 0})
    assert out.strip() == b"6000005"
    with pytest.raises(GuestRefused) as refused:
        await commands.pool.upload(commands.address, stdin, chunks())
    assert refused.value.code == "not_running"


async def test_the_same_id_never_starts_a_second(commands: Commands) -> None:
    request = commands.request("echo started >> once; sleep 0.2; echo done")
    both = await asyncio.gather(commands.ask(request), commands.ask(request))
    again = await commands.ask(request)
    assert [out for _, out, _ in (*both, again)] == [b"done\n"] * 3
    assert (Path(commands.cwd) / "once").read_text() == "started\n"


async def test_a_timeout_ends_the_whole_tree(commands: Commands) -> None:
    daemon = "import os,time\nos.fork() and os._exit(0)\nos.setsid()\nos.fork() and os._exit(0)\n"
    daemon += "open('pids','a').write(f'{os.getpid()}\\n')\nos.closerange(0,10)\ntime.sleep(300)"
    (Path(commands.cwd) / "daemon.py").write_text(daemon)
    script = "trap '' TERM; env -i /usr/bin/python3 -I daemon.py; env -i setsid sleep 301 & echo $! >> pids; sleep 302"
    record, _, _ = await commands.run(script, timeoutMs=1000)
    assert (record["outcome"], record["timedOut"]) == ("timed_out", True)
    pids = [int(pid) for pid in (Path(commands.cwd) / "pids").read_text().split()]
    assert len(pids) == 2
    await eventually(lambda: not any(alive(pid) for pid in pids))


async def test_a_fork_bomb_cannot_outrun_its_timeout(commands: Commands) -> None:
    marker = f"bomb-{process_id()}"
    bomb = """if True:
        import os, time
        end = time.monotonic() + 10
        def flee():
            while time.monotonic() < end:
                if os.fork():
                    os._exit(0)
                os.setsid()
                time.sleep(0.005)
            os._exit(0)
        for _ in range(8):
            os.fork() or flee()
        time.sleep(30)
    """
    record, _, _ = await commands.run("/usr/bin/python3", ["-I", "-c", bomb, marker], timeoutMs=1000, env={"A": "b"})
    assert (record["outcome"], record["durationMs"] < 9000) == ("timed_out", True)
    assert _processes_with(marker) == []


def _processes_with(marker: str) -> list[int]:
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit() and alive(int(directory.name)):
            try:
                if marker.encode() in (directory / "cmdline").read_bytes():
                    found.append(int(directory.name))
            except OSError:
                continue
    return found


async def test_a_command_is_finished_though_daemons_hold_its_output(commands: Commands) -> None:
    record, out, _ = await commands.run("sleep 30 & echo $!; exit 5")
    assert record["exitCode"] == 5
    assert record["durationMs"] < 20_000
    os.kill(int(out), signal.SIGKILL)


async def test_a_daemon_that_goes_on_writing_is_not_held_up(commands: Commands) -> None:
    script = "(for i in $(seq 40); do sleep 0.02; head -c 20000 /dev/zero; done; touch wrote-all) & exit 0"
    record, _, _ = await commands.run(script)
    assert record["outcome"] == "exited"
    await eventually((Path(commands.cwd) / "wrote-all").exists)


async def test_streaming_gives_output_as_it_comes(commands: Commands) -> None:
    request = commands.request("echo one; read line; echo $line >&2; exit 6", keepStdin=True, answer="stream")
    seen = []

    async def line() -> AsyncIterator[bytes]:
        yield b"two\n"

    async with commands.pool.download(commands.address, request) as download:
        assert download.answer["process"]["state"] == "running"
        async for frame in download:
            seen.append(frame)
            if frame.payload == b"one\n":
                stdin = {"op": "process.stdin", "id": request["id"], "close": True}
                await commands.pool.upload(commands.address, stdin, line())
    assert [(frame.kind, frame.payload) for frame in seen[:2]] == [(2, b"one\n"), (3, b"two\n")]
    assert seen[2].json()["process"]["exitCode"] == 6


async def test_a_dropped_connection_does_not_end_the_command(commands: Commands) -> None:
    request = commands.request("sleep 0.3; echo survived > survivor", answer="stream")
    async with commands.pool.download(commands.address, request):
        pass
    record = await commands.wait(request["id"])
    assert record["outcome"] == "exited"
    assert (Path(commands.cwd) / "survivor").read_text() == "survived\n"


async def test_background_processes_are_listed_read_signalled_and_waited_for(commands: Commands) -> None:
    process = await commands.start("echo ready; trap 'echo bye; exit 9' TERM; while :; do sleep 0.05; done")
    listed, _ = processes_of(await commands.pool.call(commands.address, {"op": "process.list", "state": "running"}))
    assert process in [one.id for one in listed]
    await _output_contains(commands, process, b"ready")
    assert (await commands.wait(process, 10))["state"] == "running"
    await commands.pool.call(commands.address, {"op": "process.signal", "id": process, "signal": 15})
    record = await commands.wait(process)
    assert (record["outcome"], record["exitCode"]) == ("exited", 9)
    _, out, _ = await commands.ask({"op": "process.output", "id": process, "stream": "stdout", "offset": 6})
    assert out == b"bye\n"


async def _output_contains(commands: Commands, process: str, text: bytes) -> None:
    deadline = time.monotonic() + 15
    while True:
        _, out, _ = await commands.ask({"op": "process.output", "id": process, "stream": "stdout", "offset": 0})
        if text in out:
            return
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_cancelled_tree_is_gone_and_says_so(commands: Commands) -> None:
    process = await commands.start("env -i setsid sleep 303 & echo $!; sleep 304")
    await _output_contains(commands, process, b"\n")
    request = {"op": "process.signal", "id": process, "signal": 9, "tree": True, "cancel": True}
    await commands.pool.call(commands.address, request)
    record = await commands.wait(process)
    assert (record["outcome"], record["signal"]) == ("cancelled", 9)
    _, out, _ = await commands.ask({"op": "process.output", "id": process, "stream": "stdout", "offset": 0})
    await eventually(lambda: not alive(int(out)))


async def test_following_goes_on_until_the_end(commands: Commands) -> None:
    process = await commands.start("for i in 1 2 3; do echo $i; sleep 0.05; done; echo err >&2")
    record, out, err = await commands.ask({"op": "process.follow", "id": process, "stdoutOffset": 2, "stderrOffset": 0})
    assert (out, err, record["state"]) == (b"2\n3\n", b"err\n", "finished")
    process = await commands.start("for i in 1 2 3; do echo $i; sleep 0.05; done")
    request = {"op": "process.output", "id": process, "stream": "stdout", "offset": 0, "follow": True}
    _, out, _ = await commands.ask(request)
    assert out == b"1\n2\n3\n"
    _, out, _ = await commands.ask({**request, "offset": 2, "length": 2})
    assert out == b"2\n"


async def test_a_gigabyte_of_output_passes_at_constant_memory(commands: Commands, guest_program: GuestProgram) -> None:
    size = 1_000_000_000
    record, out, _ = await commands.run(f"head -c {size} /dev/zero; echo end", tail=1000)
    assert record["stdoutBytes"] == size + 4
    assert record["droppedBytes"] == 0
    assert out == b"\0" * 996 + b"end\n"
    assert resident(guest_program.pid) < 120 * MIB
    request = {"op": "process.output", "id": record["id"], "stream": "stdout", "offset": size - 3, "length": 5}
    _, out, _ = await commands.ask(request)
    assert out == b"\0\0\0en"
    (guest_program.log / record["id"] / "stdout").unlink()


async def test_two_hundred_commands_run_at_once(commands: Commands) -> None:
    ran = await asyncio.gather(*(commands.run(f"sleep 0.5; echo {n}; exit {n % 7}") for n in range(200)))
    assert [out for _, out, _ in ran] == [f"{n}\n".encode() for n in range(200)]
    assert [record["exitCode"] for record, _, _ in ran] == [n % 7 for n in range(200)]


async def test_orphans_are_reaped(commands: Commands, guest_program: GuestProgram) -> None:
    await commands.run("for i in $(seq 30); do (setsid sh -c 'sleep 0.05' >/dev/null 2>&1 &) ; done")

    def no_zombies() -> bool:
        children = Path(f"/proc/{guest_program.pid}/task/{guest_program.pid}/children").read_text().split()
        return not any(not alive(int(pid)) for pid in children)

    await eventually(no_zombies)


async def test_children_are_likelier_victims_of_the_oom_killer_than_the_guest(
    commands: Commands, guest_program: GuestProgram
) -> None:
    _, out, _ = await commands.run("cat /proc/self/oom_score_adj")
    assert int(out) >= 500
    assert int(Path(f"/proc/{guest_program.pid}/oom_score_adj").read_text()) < 500


async def test_no_descriptor_of_the_guest_leaks_into_a_command(commands: Commands) -> None:
    _, out, _ = await commands.run(
        "/usr/bin/python3", ["-I", "-S", "-c", "import os; print(sorted(os.listdir('/proc/self/fd')))"]
    )
    assert out in (b"['0', '1', '2', '3']\n", b"['0', '1', '2']\n")


async def test_the_list_is_paged_oldest_first(commands: Commands) -> None:
    made = [await commands.start("true", []) for _ in range(5)]
    for one in made:
        await commands.wait(one)
    first = await commands.pool.call(commands.address, {"op": "process.list", "after": made[0], "limit": 3})
    page, more = processes_of(first)
    assert ([one.id for one in page], more) == (made[1:4], True)
    page, more = processes_of(await commands.pool.call(commands.address, {"op": "process.list", "after": made[3]}))
    assert ([one.id for one in page], more) == (made[4:], False)


async def test_huge_arguments_do_not_make_huge_records(commands: Commands) -> None:
    record, out, _ = await commands.run("sh", ["-c", "echo $#", "x", *["y" * 100_000] * 3])
    assert out == b"3\n"
    assert len(str(record)) < 50_000
    for _ in range(3):
        await commands.run("true", ["\udcff" * 100_000])
    answer = await commands.pool.call(commands.address, {"op": "process.list", "limit": 1000})
    assert answer["processes"]
