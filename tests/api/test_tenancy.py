"""Nothing of another organisation is visible: each operation, with each kind of id, answers as for what never was."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from boxkeep_server.model.ids import new_id
from boxkeep_server.model.scopes import Scope
from boxkeep_server.model.statuses import Status
from boxkeep_server.web.app import OPERATIONS
from boxkeep_server.web.operations import AnyOperation
from tests.api.stage import PUBLIC, Stage

PATH = "/v1/sandboxes"
AT = {"path": "/x"}
PROCESS = {"processId": "a" * 32}
NONE: dict[str, Any] = {}
OUTLIVING = ("artifactUrl", "downloadArtifact", "deleteArtifact")
"""What is asked of things that outlive their sandbox: these are not found, whether it is there or not."""
FIELDS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("readSandboxes", "endSandbox", "pauseSandbox", "resumeSandbox", "watchEvents"), NONE),
    **dict.fromkeys(("listProcesses", "openTerminal", "listPorts", "takeCheckpoint", "listCheckpoints"), NONE),
    **dict.fromkeys(("listArtifacts", "readPreview", "startPreview", "previewViewer", "readHandoff"), NONE),
    **dict.fromkeys(("cancelHandoff", "completeHandoff", "readTasks", "readTimeline", "listFile"), NONE),
    **dict.fromkeys(("readFile", "statFile", "downloadFile", "headFile", "uploadFile", "mkdirFile", "removeFile"), AT),
    **dict.fromkeys(("readOutput", "writeInput", "signalProcess", "waitForProcess"), PROCESS),
    "changeSandbox": {"name": "n"},
    "publishPort": {"port": 3000, "public": True},
    "exec": {"command": "true"},
    "code": {"code": "1"},
    "writeFile": {**AT, "content": ""},
    "moveFile": {"from": "/a", "to": "/b"},
    "chmodFile": {**AT, "mode": 0},
    "urlFile": {**AT, "operation": "download"},
    "restoreCheckpoint": {"checkpointId": "c"},
    "publishArtifact": AT,
    **{name: {"key": "k"} for name in OUTLIVING},
    "navigatePreview": {"url": "http://localhost"},
    "resizePreview": {"width": 800, "height": 600},
    "requestHandoff": {"reason": "mfa", "message": "m"},
    "acceptHandoff": {"controller": "c"},
    "prompt": {"prompt": "p"},
    "createTask": {"prompt": "p"},
    "cancelTask": {"taskId": "t"},
    "watchTask": {"taskId": "t"},
    "convertDocument": {**AT, "format": "pdf"},
}
"""What each operation needs besides the sandbox's id."""

OF_NO_SANDBOX = {
    "createSandbox",
    "deleteCheckpoint",
    *("createWebhook", "readWebhooks", "changeWebhook", "deleteWebhook", "rotateWebhook", "testWebhook"),
    *("listDeliveries", "redeliver", "readUsage", "readBilling"),
}
NAMED = [operation for operation in OPERATIONS if operation.name not in OF_NO_SANDBOX]


def _asked(operation: AnyOperation, sandbox: str) -> dict[str, Any]:
    fields = {"id": sandbox, **FIELDS[operation.name]}
    if operation.raw:
        return {"params": fields, "content": b"x"}
    return {"json": fields} if operation.method in ("POST", "PATCH") else {"params": fields}


def _said(answer: httpx.Response) -> tuple[int, Any]:
    """Status and body; answers to HEAD have none."""
    return answer.status_code, answer.json() if answer.content else None


def _refusal(operation: AnyOperation, status: int, **body: str) -> tuple[int, Any]:
    return status, None if operation.method == "HEAD" else body


def test_every_operation_is_asked() -> None:
    assert {operation.name for operation in OPERATIONS} == FIELDS.keys() | OF_NO_SANDBOX


async def test_nothing_of_another_organisation_is_visible(stranger: httpx.AsyncClient, box: str, stage: Stage) -> None:
    before = await stage.sandboxes.state(box)
    for operation in NAMED:
        theirs = await stranger.request(operation.method, operation.path, **_asked(operation, box))
        never = await stranger.request(operation.method, operation.path, **_asked(operation, new_id()))
        missing = "Artifact not found" if operation.name in OUTLIVING else "Sandbox session not found"
        assert _said(theirs) == _refusal(operation, 404, error=missing), operation.name
        assert (never.status_code, never.content) == (theirs.status_code, theirs.content), operation.name
        assert {*theirs.headers} == {*never.headers}, operation.name
    assert (await stranger.get(PATH)).json()["items"] == []
    assert before is not None
    assert before.status is Status.READY
    assert await stage.sandboxes.state(box) == before


async def test_a_command_of_another_sandbox_is_one_that_never_was(
    api: httpx.AsyncClient, stranger: httpx.AsyncClient, stage: Stage, box: str
) -> None:
    ran = (await api.post(f"{PATH}/exec", json={"id": box, "command": "true"})).json()["processId"]
    own = (await stranger.post(PATH, json={})).json()["id"]
    for operation in (one for one in NAMED if FIELDS[one.name] is PROCESS):
        answers = []
        for process in (ran, new_id()):
            asked = _asked(operation, own)
            next(iter(asked.values()))["processId"] = process
            answers.append(await stranger.request(operation.method, operation.path, **asked))
        assert [answer.status_code for answer in answers] == [404, 404], operation.name
        assert answers[0].content == answers[1].content


async def test_a_terminal_of_another_sandbox_is_one_that_never_was(
    api: httpx.AsyncClient, stranger: httpx.AsyncClient, stage: Stage, box: str
) -> None:
    own = await stage.ready_sandbox((stranger.headers["authorization"]).split()[1], stage.reacher.guests[box])
    theirs = (await api.get(f"{PATH}/terminal", params={"id": box})).json()["terminalId"]
    shown = httpx.URL((await api.get(PATH, params={"id": box})).json()["terminalUrl"]).params["terminalId"]
    for terminal in (theirs, shown, "a" * 32):
        answer = await stranger.get(f"{PATH}/terminal", params={"id": own, "terminalId": terminal})
        assert (answer.status_code, answer.json()) == (404, {"error": "Terminal not found"})
    again = await api.get(f"{PATH}/terminal", params={"id": box, "terminalId": theirs})
    assert again.json()["terminalId"] == theirs


async def test_a_signed_url_opens_only_what_it_names(
    api: httpx.AsyncClient, stranger: httpx.AsyncClient, box: str, stage: Stage
) -> None:
    own = (await stranger.post(PATH, json={})).json()["id"]
    body = {"id": own, "path": "/etc/hostname", "operation": "download"}
    url = httpx.URL((await stranger.post(f"{PATH}/fs/url", json=body)).json()["url"])
    async with stage.client(None) as anyone:
        for change in ({"id": box}, {"path": "/etc/passwd"}, {"token": url.params["token"][:-2]}):
            answer = await anyone.get(url.copy_merge_params(change))
            assert (answer.status_code, answer.json()) == (401, {"error": "Invalid or missing API key"}), change
        upload = str(url).replace(f"{PUBLIC}{PATH}/fs/download", f"{PATH}/fs/upload")
        assert (await anyone.put(upload, content=b"x")).status_code == 401
        terminal = {"id": own, "token": url.params["token"]}
        assert (await anyone.get(f"{PATH}/fs/read", params={**terminal, "path": "/x"})).status_code == 401


FOLLOWED: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/events", {}),
    ("POST", "/exec", {"command": "echo begun; sleep 30", "stream": True}),
]


@pytest.mark.parametrize(("method", "path", "more"), FOLLOWED, ids=["events", "exec"])
async def test_a_stream_breaks_off_when_its_key_is_revoked(
    served: str, stage: Stage, key: str, box: str, method: str, path: str, more: dict[str, Any]
) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    where = "params" if method == "GET" else "json"
    asked: dict[str, Any] = {where: {"id": box, **more}}
    async with (
        asyncio.timeout(20),
        httpx.AsyncClient(base_url=f"http://{served}{PATH}", headers=headers, timeout=20) as client,
        client.stream(method, path, **asked) as answer,
    ):
        chunks = answer.aiter_raw()
        assert answer.status_code == 200
        assert await anext(chunks)
        await stage.keys.revoke((await stage.keys.authenticate(key)).key_id)
        with pytest.raises(httpx.RemoteProtocolError):
            await _all_of(chunks)


async def _all_of(chunks: AsyncIterator[bytes]) -> None:
    async for _ in chunks:
        pass


async def test_each_operation_asks_for_its_scope_and_no_other(stage: Stage) -> None:
    more: dict[str, dict[str, Any]] = {
        "deleteCheckpoint": {"params": {"checkpointId": "c"}},
        "createWebhook": {"json": {"url": "https://example.com"}},
        **{key: {"json": {"id": "w"}} for key in ("changeWebhook", "rotateWebhook", "testWebhook")},
        **{key: {"params": {"id": "w"}} for key in ("deleteWebhook", "listDeliveries")},
        "redeliver": {"json": {"deliveryId": "d"}},
    }
    for wanted in Scope:
        others = [scope for scope in Scope if scope is not wanted]
        async with (
            stage.client(await stage.key("scoped", "unlimited", wanted)) as one,
            stage.client(await stage.key("scoped", "unlimited", *others)) as all_others,
        ):
            for operation in (operation for operation in OPERATIONS if operation.scope is wanted):
                asked = {} if operation.name in OF_NO_SANDBOX else _asked(operation, new_id())
                asked = more.get(operation.name, asked)
                refused = await all_others.request(operation.method, operation.path, **asked)
                said = _refusal(operation, 403, error="Insufficient permissions", code="PERMISSION_DENIED")
                assert _said(refused) == said, operation.name
                allowed = await one.request(operation.method, operation.path, **asked)
                assert allowed.status_code in (200, 404), operation.name


WRONG_WITHOUT_SCOPE = [
    ("GET", "/fs/read", {"params": {"id": "x"}}, "path is required"),
    ("GET", "/fs/list", {"params": {"id": "x", "path": "/", "pathBase64": "Lw=="}}, "path and pathBase64 exclude"),
    ("GET", "/fs/download", {"params": {"id": "x", "pathBase64": "!"}}, "Invalid pathBase64: must be base64"),
    ("POST", "/fs/move", {"json": {"id": "x", "from": "/a"}}, "to is required"),
    ("POST", "/fs/chmod", {"json": {"id": "x", "mode": 1}}, "path is required"),
    ("POST", "/exec", {"json": {"id": "x", "command": "a", "stream": True, "background": True}}, "background and str"),
    ("POST", "", {"json": {}, "headers": {"Idempotency-Key": "\t"}}, "Invalid Idempotency-Key"),
]


@pytest.mark.parametrize(("method", "path", "asked", "said"), WRONG_WITHOUT_SCOPE, ids=range(len(WRONG_WITHOUT_SCOPE)))
async def test_what_is_malformed_is_a_400_before_the_scope_is_asked_for(
    stage: Stage, method: str, path: str, asked: dict[str, Any], said: str
) -> None:
    async with stage.client(await stage.key("scoped", "unlimited", Scope.USAGE)) as client:
        answer = await client.request(method, PATH + path, **asked)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(said)
