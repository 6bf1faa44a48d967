"""Commands by HTTP: any argv, any bytes, any exit, streams, timeouts, and one outcome each."""

import base64
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.clients import Sandbox, eventually, server_sent

MIB = 1 << 20
INLINE = MIB


def test_the_record_of_a_command_has_every_field(sandbox: Sandbox) -> None:
    answer = sandbox.exec("echo out; echo err >&2; exit 3")
    assert {
        "id": sandbox.id,
        "outcome": "exited",
        "exitCode": 3,
        "signal": None,
        "stdout": "out\n",
        "stderr": "err\n",
        "stdoutBytes": 4,
        "stderrBytes": 4,
        "encoding": "utf-8",
        "truncated": False,
        "timedOut": False,
    }.items() <= answer.items(), answer
    assert len(answer["processId"]) == 32
    assert answer["durationMs"] >= 0


@pytest.mark.parametrize(
    "words",
    [["a b", "", "'\"", "$HOME", "*", "new\nline", "é…😀", "--", "-n"], ["x" * 100_000], [str(n) for n in range(2000)]],
    ids=["odd", "long", "many"],
)
def test_an_argv_arrives_as_it_was_sent(sandbox: Sandbox, words: list[str]) -> None:
    answer = sandbox.exec("printf", "%s\\0", *words)
    assert answer["stdout"].split("\0")[:-1] == words


def test_every_exit_code_comes_back(sandbox: Sandbox) -> None:
    line = "for code in 0 1 2 77 126 127 128 200 255; do (exit $code); echo $?; done"
    assert sandbox.run(line).split() == ["0", "1", "2", "77", "126", "127", "128", "200", "255"]
    for code in (0, 1, 77, 255):
        assert sandbox.exec(f"exit {code}")["exitCode"] == code


def test_a_command_that_is_not_there_is_127_and_one_that_cannot_run_is_126(sandbox: Sandbox) -> None:
    assert sandbox.exec("no-such-program", "x")["exitCode"] == 127
    sandbox.write("/workspace/plain.txt", b"not a program")
    assert sandbox.exec("/workspace/plain.txt", "x")["exitCode"] == 126
    assert sandbox.exec("no-such-program")["exitCode"] == 127


def test_a_signal_is_told_as_such(sandbox: Sandbox) -> None:
    answer = sandbox.exec("kill -SEGV $$")
    assert (answer["outcome"], answer["exitCode"]) == ("signalled", 139), answer
    assert answer["signal"] == 11


def test_all_bytes_come_back_in_base64(sandbox: Sandbox) -> None:
    everything = bytes(range(256)) * 8
    stdin = base64.b64encode(everything).decode()
    answer = sandbox.exec("cat", stdin=stdin, stdinEncoding="base64", encoding="base64")
    assert base64.b64decode(answer["stdout"]) == everything
    assert answer["encoding"] == "base64"


def test_what_is_not_text_is_replaced_in_text(sandbox: Sandbox) -> None:
    answer = sandbox.exec("printf 'a\\377b\\303\\251'")
    assert answer["stdout"] == "a\ufffdbé"
    assert answer["stdoutBytes"] == 5


def test_stdin_of_text_is_read_to_its_end(sandbox: Sandbox) -> None:
    assert sandbox.exec("wc -c", stdin="é" * 100_000)["stdout"].strip() == "200000"
    assert sandbox.exec("cat")["stdout"] == ""


def test_cwd_env_and_user_are_as_asked(sandbox: Sandbox) -> None:
    answer = sandbox.exec("pwd; echo $COLOUR; id -un", cwd="/tmp", env={"COLOUR": "grün"}, user="user")
    assert answer["stdout"] == "/tmp\ngrün\nuser\n"


def test_sudo_works_where_the_runtime_knows_set_user_id(sandbox: Sandbox, isolation: str) -> None:
    answer = sandbox.exec("sudo id -u", user="user")
    assert sandbox.run("sudo id -u") == "0\n"
    assert (answer["stdout"], answer["exitCode"]) == (("0\n", 0) if isolation == "runc" else ("", 1)), answer


@pytest.mark.parametrize("wrong", [{"cwd": "/nowhere"}, {"cwd": "relative"}, {"user": "no-such-one"}], ids=str)
def test_a_bad_cwd_or_user_is_a_400(sandbox: Sandbox, wrong: dict[str, str]) -> None:
    response = sandbox.api.ask("POST", "/exec", json={"id": sandbox.id, "command": "true", **wrong})
    assert response.status_code == 400, response.text
    assert next(iter(wrong.values())) in response.json()["error"]


def test_inline_output_is_the_last_mebibyte_and_all_of_it_can_be_read_by_offset(sandbox: Sandbox) -> None:
    answer = sandbox.exec("seq 1 400000")
    whole = "".join(f"{n}\n" for n in range(1, 400_001)).encode()
    assert answer["truncated"] is True
    assert answer["stdoutBytes"] == len(whole)
    assert answer["stdout"].encode() == whole[-INLINE:]
    assert sandbox.output(answer["processId"]) == whole
    assert sandbox.output(answer["processId"], offset=len(whole) - 7) == whole[-7:]
    assert sandbox.output(answer["processId"], offset=len(whole)) == b""


def test_a_timeout_kills_the_whole_tree_and_daemons_too(sandbox: Sandbox) -> None:
    line = "setsid sh -c 'sleep 4321 & sleep 4321' >/dev/null 2>&1 & (setsid sleep 4321 &) ; sleep 4321"
    answer = sandbox.exec(line, timeout=1000)
    assert (answer["outcome"], answer["timedOut"]) == ("timed_out", True), answer
    assert answer["exitCode"] is None or answer["exitCode"] >= 128
    eventually("no sleeper to be left", lambda: sandbox.exec("pgrep -x sleep -a")["stdout"].count("4321") == 0, 10)


def test_a_command_that_ignores_term_is_killed_all_the_same(sandbox: Sandbox) -> None:
    answer = sandbox.exec("trap '' TERM; while :; do sleep 0.2; done", timeout=500)
    assert answer["outcome"] == "timed_out", answer


def test_output_before_a_timeout_is_kept(sandbox: Sandbox) -> None:
    assert sandbox.exec("echo begun; sleep 60", timeout=700)["stdout"] == "begun\n"


def test_a_foreground_command_does_not_wait_for_what_it_left_behind(sandbox: Sandbox) -> None:
    answer = sandbox.exec("(sleep 20; echo late) & echo now", timeout=15_000)
    assert (answer["outcome"], answer["exitCode"], answer["stdout"]) == ("exited", 0, "now\n"), answer
    sandbox.exec("pkill -x sleep")


def test_a_streamed_command_sends_its_output_as_it_comes(sandbox: Sandbox) -> None:
    events: list[tuple[str, dict[str, object]]] = []
    body = {"id": sandbox.id, "command": "echo one; echo two >&2; read -r x < /workspace/fifo; exit 4", "stream": True}
    sandbox.run("rm -f fifo; mkfifo fifo")
    with sandbox.api.http.stream("POST", "/v1/sandboxes/exec", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for name, data in server_sent(response):
            events.append((name, data))
            if len([seen for seen in events if seen[0] in ("stdout", "stderr")]) == 2 and name != "exit":
                sandbox.run("echo go > /workspace/fifo")
    names = [name for name, _ in events]
    assert {"stdout", "stderr"} <= set(names)
    assert names[-1] == "exit"
    assert events[-1][1]["exitCode"] == 4


def test_a_dropped_connection_does_not_end_its_command(sandbox: Sandbox) -> None:
    line = "sleep 1; echo survived > /workspace/survivor"
    with pytest.raises(httpx.ReadTimeout):
        sandbox.api.ask("POST", "/exec", json={"id": sandbox.id, "command": line}, timeout=0.3)
    eventually("the command to finish", lambda: sandbox.exec("cat /workspace/survivor")["stdout"] == "survived\n", 10)


def test_a_background_command_is_listed_fed_signalled_and_waited_for(sandbox: Sandbox) -> None:
    process = sandbox.background("while read -r line; do echo got $line; done; echo end; sleep 600", stdin="first\n")
    eventually("the first line", lambda: sandbox.output(process) == b"got first\nend\n", 10)
    listed = sandbox.process(process)
    assert listed["outcome"] is None
    still = sandbox.wait(process, timeout_ms=200)
    assert still["outcome"] is None
    sandbox.post("/processes/signal", processId=process, signal="TERM")
    ended = sandbox.wait(process)
    assert (ended["outcome"], ended["exitCode"]) == ("signalled", 143), ended


def test_stdin_of_a_background_command_is_written_in_pieces_and_closed(sandbox: Sandbox) -> None:
    process = sandbox.exec("cat; echo done", background=True)["processId"]
    for piece in ("one ", "two ", "é\n"):
        sandbox.post("/processes/stdin", processId=process, data=piece)
    sandbox.post("/processes/stdin", processId=process, data="", close=True)
    assert sandbox.wait(process)["outcome"] == "exited"
    assert sandbox.output(process).decode() == "one two é\ndone\n"


def test_output_is_followed_to_the_end(sandbox: Sandbox) -> None:
    process = sandbox.background("for n in 1 2 3 4 5; do echo $n; sleep 0.1; done")
    assert sandbox.output(process, follow="true") == b"1\n2\n3\n4\n5\n"


def test_a_cancelled_command_says_cancelled(sandbox: Sandbox) -> None:
    process = sandbox.background("setsid sleep 4322 & sleep 4322")
    sandbox.post("/processes/signal", processId=process, signal="KILL")
    assert sandbox.wait(process)["outcome"] == "cancelled"
    assert "4322" not in sandbox.exec("pgrep -x sleep -a")["stdout"]


def test_two_hundred_commands_at_once_each_get_their_own_answer(sandbox: Sandbox) -> None:
    def one(number: int) -> bool:
        answer = sandbox.exec(f"echo {number}; echo e{number} >&2; exit {number % 7}")
        return (answer["stdout"], answer["stderr"], answer["exitCode"]) == (
            f"{number}\n",
            f"e{number}\n",
            number % 7,
        )

    with ThreadPoolExecutor(200) as pool:
        assert all(pool.map(one, range(200)))


def test_two_hundred_commands_that_all_run_at_once_all_end(sandbox: Sandbox) -> None:
    sandbox.run("rm -rf gate at; mkfifo gate; mkdir at")
    holding = sandbox.background("exec 3<>gate; exec sleep 600")
    line = "exec 4<gate; : >at/$$; cat <&4; echo through"
    with ThreadPoolExecutor(50) as pool:
        processes = list(pool.map(lambda _: sandbox.background(line), range(200)))
    assert len(set(processes)) == 200
    assert {sandbox.process(process)["state"] for process in processes[::20]} == {"running"}
    eventually("all to be at the gate", lambda: sandbox.run("ls at | wc -l") == "200\n", 120, 0.5)
    sandbox.post("/processes/signal", processId=holding, signal="TERM")
    with ThreadPoolExecutor(50) as pool:
        assert {
            (answer["outcome"], answer["exitCode"], answer["reason"]) for answer in pool.map(sandbox.wait, processes)
        } == {("exited", 0, None)}
    assert {item["processId"] for item in sandbox.processes()} >= set(processes)


def test_a_gigabyte_of_output_is_read_back_by_offset(sandbox: Sandbox) -> None:
    piece, total = 64 * MIB, 1024 * MIB
    words = "".join(f"{number:07d}" for number in range(9)) + "\n"
    line = f"yes {words.strip()} | head -c {total}"
    process = sandbox.background(line)
    ended = sandbox.wait(process, timeout_ms=150_000)
    assert (ended["outcome"], ended["stdoutBytes"]) == ("exited", total), ended
    digest = hashlib.sha256()
    params = {"id": sandbox.id, "processId": process, "stream": "stdout"}
    offset = 0
    while offset < total:
        got = 0
        with sandbox.api.http.stream(
            "GET", "/v1/sandboxes/processes/output", params={**params, "offset": offset, "length": piece}
        ) as response:
            for chunk in response.iter_raw():
                digest.update(chunk)
                got += len(chunk)
        assert got > 0, f"nothing at {offset}"
        offset += got
    assert offset == total
    block = words.encode() * (MIB // len(words))
    expected = hashlib.sha256()
    for _ in range(total // MIB):
        expected.update(block)
    assert digest.hexdigest() == expected.hexdigest()


def test_a_follower_that_goes_away_leaves_the_command_alone(sandbox: Sandbox) -> None:
    process = sandbox.background("sleep 1; echo still here")
    stop = threading.Event()
    params = {"id": sandbox.id, "processId": process, "stream": "stdout", "follow": "true"}
    with sandbox.api.http.stream("GET", "/v1/sandboxes/processes/output", params=params):
        stop.set()
    assert stop.is_set()
    assert sandbox.wait(process)["exitCode"] == 0
    assert sandbox.output(process) == b"still here\n"
