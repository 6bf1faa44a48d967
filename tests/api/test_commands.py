"""Commands by HTTP, with the real guest inside."""

import asyncio
import base64

import httpx

from boxkeep_server.model.commands import Outcome
from boxkeep_server.model.statuses import Status
from tests.api.stage import Stage

EXEC = "/v1/sandboxes/exec"


async def test_a_command_line_runs_to_its_end(api: httpx.AsyncClient, box: str, stage: Stage) -> None:
    response = await api.post(EXEC, json={"id": box, "command": "echo out; echo err >&2; exit 3"})
    assert response.status_code == 200, response.text
    body = response.json()
    assert (body["outcome"], body["exitCode"], body["signal"]) == ("exited", 3, None)
    assert (body["stdout"], body["stderr"]) == ("out\n", "err\n")
    assert (body["stdoutBytes"], body["stderrBytes"], body["truncated"], body["timedOut"]) == (4, 4, False, False)
    assert (body["id"], body["encoding"]) == (box, "utf-8")
    row = stage.rows.rows[body["processId"]]
    assert row.outcome is Outcome.EXITED
    assert row.line == "echo out; echo err >&2; exit 3"


async def test_a_refused_directory_is_a_400_and_leaves_no_open_record(
    api: httpx.AsyncClient, box: str, stage: Stage
) -> None:
    response = await api.post(EXEC, json={"id": box, "command": "true", "cwd": "/nowhere"})
    assert response.status_code == 400
    assert "/nowhere" in response.json()["error"]
    assert all(row.outcome is not None for row in stage.rows.rows.values())


async def test_a_sandbox_that_ends_answers_its_waiting_clients(api: httpx.AsyncClient, box: str, stage: Stage) -> None:
    running = asyncio.create_task(api.post(EXEC, json={"id": box, "command": "sleep 100"}))
    while not stage.rows.rows:
        await asyncio.sleep(0.01)
    stage.sandboxes.move(box, Status.FAILED, "out_of_memory")
    body = (await running).json()
    assert (body["outcome"], body["exitCode"]) == ("out_of_memory", None)


async def test_bytes_travel_as_base64_or_as_replaced_text(api: httpx.AsyncClient, box: str) -> None:
    command = {"id": box, "command": "cat", "stdin": base64.b64encode(b"\xff\x00a").decode(), "stdinEncoding": "base64"}
    assert (await api.post(EXEC, json=command)).json()["stdout"] == "\ufffd\0a"
    shown = (await api.post(EXEC, json={**command, "encoding": "base64"})).json()["stdout"]
    assert base64.b64decode(shown) == b"\xff\x00a"
