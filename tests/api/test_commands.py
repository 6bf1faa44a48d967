"""Commands by HTTP, with the real guest inside."""

import asyncio
import base64
import json

import httpx

from boxkeep_server.control.settle import Settler
from boxkeep_server.guestwire import GuestPool
from boxkeep_server.model.commands import Outcome
from boxkeep_server.model.events import Event, EventType
from tests.api.stage import Stage

EXEC = "/v1/sandboxes/exec"
PROCESSES = "/v1/sandboxes/processes"


async def test_a_command_line_runs_to_its_end(api: httpx.AsyncClient, box: str, stage: Stage) -> None:
    response = await api.post(EXEC, json={"id": box, "command": "echo out; echo err >&2; exit 3"})
    assert response.status_code == 200, response.text
    body = response.json()
    assert (body["outcome"], body["exitCode"], body["signal"]) == ("exited", 3, None)
    assert (body["stdout"], body["stderr"]) == ("out\n", "err\n")
    assert (body["stdoutBytes"], body["stderrBytes"], body["truncated"], body["timedOut"]) == (4, 4, False, False)
    assert (body["id"], body["encoding"]) == (box, "utf-8")
    row = await stage.rows.get(body["processId"])
    assert row is not None
    assert row.outcome is Outcome.EXITED
    assert row.line == "echo out; echo err >&2; exit 3"


async def test_a_refused_directory_is_a_400_and_leaves_no_open_record(
    api: httpx.AsyncClient, box: str, stage: Stage
) -> None:
    response = await api.post(EXEC, json={"id": box, "command": "true", "cwd": "/nowhere"})
    assert response.status_code == 400
    assert "/nowhere" in response.json()["error"]
    assert list(await stage.rows.open()) == []


async def test_an_unknown_user_is_a_400(api: httpx.AsyncClient, box: str) -> None:
    response = await api.post(EXEC, json={"id": box, "command": "true", "user": "nobody-there"})
    assert response.status_code == 400


async def _started(stage: Stage) -> None:
    while not await stage.rows.open():
        await asyncio.sleep(0.01)


async def test_a_sandbox_that_dies_of_memory_answers_its_waiting_clients(
    api: httpx.AsyncClient, box: str, stage: Stage
) -> None:
    running = asyncio.create_task(api.post(EXEC, json={"id": box, "command": "sleep 100"}))
    await _started(stage)
    await stage.fail(box, "out_of_memory")
    body = (await running).json()
    assert (body["outcome"], body["exitCode"]) == ("out_of_memory", None)


async def test_ending_a_sandbox_ends_its_commands(api: httpx.AsyncClient, box: str, stage: Stage) -> None:
    running = asyncio.create_task(api.post(EXEC, json={"id": box, "command": "sleep 100"}))
    await _started(stage)
    assert (await api.delete("/v1/sandboxes", params={"id": box})).json() == {"ok": True}
    body = (await running).json()
    assert (body["outcome"], body["reason"]) == ("sandbox_ended", "user_request")
    assert list(await stage.rows.open()) == []


async def test_bytes_travel_as_base64_or_as_replaced_text(api: httpx.AsyncClient, box: str) -> None:
    command = {"id": box, "command": "cat", "stdin": base64.b64encode(b"\xff\x00a").decode(), "stdinEncoding": "base64"}
    assert (await api.post(EXEC, json=command)).json()["stdout"] == "\ufffd\0a"
    shown = (await api.post(EXEC, json={**command, "encoding": "base64"})).json()["stdout"]
    assert base64.b64decode(shown) == b"\xff\x00a"


async def test_a_large_input_reaches_the_command(api: httpx.AsyncClient, box: str) -> None:
    body = (await api.post(EXEC, json={"id": box, "command": "wc -c", "stdin": "x" * 3_000_000})).json()
    assert (body["stdout"], body["outcome"]) == ("3000000\n", "exited")


async def test_arguments_need_no_shell(api: httpx.AsyncClient, box: str) -> None:
    wish = {"id": box, "command": "printf", "args": ["%s|", "a b", "$HOME", "*", "é"]}
    assert (await api.post(EXEC, json=wish)).json()["stdout"] == "a b|$HOME|*|é|"
    missing = (await api.post(EXEC, json={"id": box, "command": "no-such-program", "args": []})).json()
    assert (missing["outcome"], missing["exitCode"]) == ("exited", 127)


async def test_a_timeout_ends_the_tree_and_says_so(api: httpx.AsyncClient, box: str) -> None:
    body = (await api.post(EXEC, json={"id": box, "command": "sleep 100 & sleep 100", "timeout": 200})).json()
    assert (body["outcome"], body["timedOut"]) == ("timed_out", True)


async def test_the_last_mebibyte_is_inline_and_the_rest_is_read_by_offset(api: httpx.AsyncClient, box: str) -> None:
    body = (await api.post(EXEC, json={"id": box, "command": "head -c 3000000 /dev/zero | tr '\\0' x"})).json()
    assert (len(body["stdout"]), body["stdoutBytes"], body["truncated"]) == (1 << 20, 3_000_000, True)
    query = {"id": box, "processId": body["processId"], "offset": 10}
    whole = await api.get(f"{PROCESSES}/output", params=query)
    assert (whole.status_code, whole.headers["x-output-offset"], len(whole.content)) == (200, "10", 2_999_990)


async def test_a_process_killed_for_memory_is_said_to_be(api: httpx.AsyncClient, box: str, stage: Stage) -> None:
    stage.kill_for_memory(box, 1)
    assert (await api.post(EXEC, json={"id": box, "command": "kill -9 $$"})).json()["outcome"] == "out_of_memory"
    again = (await api.post(EXEC, json={"id": box, "command": "kill -9 $$"})).json()
    assert (again["outcome"], again["signal"], again["exitCode"]) == ("signalled", 9, 137)


async def test_a_background_command_is_listed_fed_signalled_and_waited_for(
    api: httpx.AsyncClient, box: str, stage: Stage
) -> None:
    wish = {"id": box, "command": "read x; echo got $x; sleep 100", "background": True}
    process = (await api.post(EXEC, json=wish)).json()["processId"]
    listed = (await api.get(PROCESSES, params={"id": box})).json()["items"]
    assert [(item["processId"], item["state"]) for item in listed] == [(process, "running")]
    named = {"id": box, "processId": process}
    assert (await api.post(f"{PROCESSES}/stdin", json={**named, "data": "hello\n"})).json() == {"written": 6}
    assert (await api.post(f"{PROCESSES}/wait", json={**named, "timeoutMs": 50})).json()["state"] == "running"
    async with asyncio.timeout(20):
        while not (await api.get(f"{PROCESSES}/output", params=named)).content:
            await asyncio.sleep(0.01)
    assert (await api.post(f"{PROCESSES}/signal", json={**named, "signal": "KILL"})).json() == {"ok": True}
    ended = (await api.post(f"{PROCESSES}/wait", json=named)).json()
    assert (ended["state"], ended["outcome"]) == ("finished", "cancelled")
    followed = await api.get(f"{PROCESSES}/output", params={**named, "follow": "true"})
    assert followed.content == b"got hello\n"
    late = await api.post(f"{PROCESSES}/signal", json=named)
    assert (late.status_code, late.json()) == (409, {"error": "The process has finished"})


async def test_a_background_command_that_ends_is_settled_without_anyone_asking(
    api: httpx.AsyncClient, box: str, stage: Stage
) -> None:
    process = (await api.post(EXEC, json={"id": box, "command": "exit 7", "background": True})).json()["processId"]
    async with asyncio.timeout(20):
        while (row := await stage.rows.get(process)) is None or row.outcome is None:
            await asyncio.sleep(0.01)
    assert (row.outcome, row.exit_code) == (Outcome.EXITED, 7)
    kinds = [e.type for e in await _events(stage, box)]
    assert kinds.count(EventType.COMMAND_ENDED) == 1


async def _events(stage: Stage, box: str) -> list[Event]:
    found: list[Event] = []
    sandbox = await stage.sandboxes.state(box)
    assert sandbox is not None
    caller = await stage.keys.caller_of(sandbox.created_by)
    async for event in stage.sandboxes.events(caller, box, 0, 0.0):
        if event is None:
            return found
        found.append(event)
    return found


async def test_a_stream_brings_output_as_it_comes_and_the_end(api: httpx.AsyncClient, box: str) -> None:
    wish = {"id": box, "command": "printf 'a\\303'; sleep 0.1; printf '\\251'; echo e >&2; exit 2", "stream": True}
    response = await api.post(EXEC, json=wish)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [block.split("\ndata: ") for block in response.text.strip().split("\n\n") if "data: " in block]
    said = [(name.removeprefix("event: "), json.loads(data)) for name, data in events]
    assert said[0][0] == "start"
    assert "".join(data["data"] for name, data in said if name == "stdout") == "aé"
    assert "".join(data["data"] for name, data in said if name == "stderr") == "e\n"
    assert (said[-1][0], said[-1][1]["exitCode"], said[-1][1]["outcome"]) == ("exit", 2, "exited")


async def test_code_runs_in_the_language_that_is_named_and_leaves_no_file(api: httpx.AsyncClient, box: str) -> None:
    python = {"id": box, "code": "import sys\nprint(6 * 7)\nsys.exit(4)", "language": "python"}
    body = (await api.post("/v1/sandboxes/code", json=python)).json()
    assert (body["stdout"], body["exitCode"]) == ("42\n", 4)
    shell = {"id": box, "code": "cat\necho done <<X\nX\nexit 5"}
    body = (await api.post("/v1/sandboxes/code", json=shell)).json()
    assert (body["stdout"], body["exitCode"]) == ("done\n", 5)


async def test_the_same_idempotency_key_runs_a_command_once(api: httpx.AsyncClient, box: str, stage: Stage) -> None:
    headers = {"Idempotency-Key": "once"}
    first = await api.post(EXEC, json={"id": box, "command": "date +%N"}, headers=headers)
    again = await api.post(EXEC, json={"id": box, "command": "date +%N"}, headers=headers)
    assert first.json() == again.json()
    other = await api.post(EXEC, json={"id": box, "command": "true"}, headers=headers)
    assert other.status_code == 409


async def test_a_queued_sandbox_takes_no_commands(api: httpx.AsyncClient, key: str, stage: Stage) -> None:
    queued = await stage.sandbox(key)
    response = await api.post(EXEC, json={"id": queued.id, "command": "true"})
    assert (response.status_code, response.json()) == (409, {"error": "Sandbox is not ready"})


async def test_a_command_is_found_again_by_a_new_process_and_settled(
    api: httpx.AsyncClient, box: str, stage: Stage, pool: GuestPool
) -> None:
    wish = {"id": box, "command": "sleep 0.5; exit 9", "background": True}
    process = (await api.post(EXEC, json=wish)).json()["processId"]
    successor = Settler(
        visits=stage.visits,
        rows=stage.rows,
        recorder=stage.recorder,
        oom_kills=stage.reacher.oom_kills,
        now_ms=stage.clock,
    )
    assert await successor.adopt() == 1
    work = asyncio.create_task(successor.run())
    async with asyncio.timeout(20):
        while (row := await stage.rows.get(process)) is None or row.outcome is None:
            await asyncio.sleep(0.01)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    assert (row.outcome, row.exit_code) == (Outcome.EXITED, 9)
    assert [e.type for e in await _events(stage, box)].count(EventType.COMMAND_ENDED) == 1
