"""Idempotency-Key: what is kept, and what must not be."""

import asyncio
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from boxkeep_server.control.idempotency import Answer, decide
from boxkeep_server.model.errors import Conflict
from boxkeep_server.store.answers import FREE, Kept
from boxkeep_server.store.schema import commands, events, idempotency
from boxkeep_server.web.app import OPERATIONS
from tests.api.stage import Stage

PATH = "/v1/sandboxes"
NOW = 1_000_000


async def _stored(stage: Stage, *tables: sa.Table) -> str:
    async with stage.database.reading() as connection:
        rows = [row for table in tables for row in await connection.execute(sa.select(table))]
    return repr([tuple(bytes(cell) if isinstance(cell, memoryview) else cell for cell in row) for row in rows])


async def test_a_signed_url_is_made_anew_and_kept_nowhere(api: httpx.AsyncClient, box: str, stage: Stage) -> None:
    body, headers = {"id": box, "path": "/a", "operation": "download"}, {"Idempotency-Key": "url"}
    first = await api.post(f"{PATH}/fs/url", json=body, headers=headers)
    stage.clock.ahead_ms += 1000
    second = await api.post(f"{PATH}/fs/url", json=body, headers=headers)
    assert (first.status_code, second.status_code) == (200, 200)
    assert "idempotent-replayed" not in second.headers
    assert second.json()["expiresAt"] >= first.json()["expiresAt"] + 1000
    stored = await _stored(stage, idempotency, commands, events)
    assert "'url'" in stored
    for answer in (first, second):
        token = httpx.URL(answer.json()["url"]).params["token"]
        assert token.partition(".")[2] not in stored
        assert token not in stored
    other = await api.post(f"{PATH}/fs/url", json={**body, "path": "/b"}, headers=headers)
    assert other.status_code == 409


async def test_no_operation_that_keeps_its_answers_ever_answers_a_token(
    api: httpx.AsyncClient, box: str, stage: Stage
) -> None:
    """Every token is signed by one object; no answer of an operation that is not called secret may hold one."""
    signed: list[str] = []
    sign = stage.parts.tokens.sign

    class Listening(type(stage.parts.tokens)):  # type: ignore[misc]
        def sign(self, *about: str) -> tuple[str, int]:
            token, until = sign(*about)
            signed.append(token)
            return token, until

    object.__setattr__(stage.parts, "tokens", Listening(b"k" * 32, stage.clock))
    bodies: dict[str, dict[str, object]] = {
        "createSandbox": {},
        "exec": {"id": box, "command": "true"},
        "code": {"id": box, "code": "true"},
        "urlFile": {"id": box, "path": "/a", "operation": "upload"},
    }
    for operation in (one for one in OPERATIONS if one.method == "POST"):
        headers = {"Idempotency-Key": operation.name}
        await api.post(operation.path, json=bodies.get(operation.name, {"id": box}), headers=headers)
        assert operation.secret or not signed, f"{operation.name} signs tokens, and its shape does not say so"
        signed.clear()


async def test_an_answer_is_given_again_and_says_so(api: httpx.AsyncClient, box: str) -> None:
    body, headers = {"id": box, "command": "date +%N"}, {"Idempotency-Key": "again"}
    first, second = [await api.post(f"{PATH}/exec", json=body, headers=headers) for _ in range(2)]
    assert first.content == second.content
    assert (first.headers.get("idempotent-replayed"), second.headers["idempotent-replayed"]) == (None, "true")


async def test_a_streamed_command_is_streamed_again_and_not_run_again(
    api: httpx.AsyncClient, box: str, tmp_path: Path, stage: Stage
) -> None:
    mark = tmp_path / "ran"
    tmp_path.parent.chmod(0o755)
    wish = {"id": box, "command": f"echo once >> {mark}; echo out; exit 3", "stream": True}
    streams = [(await api.post(f"{PATH}/exec", json=wish, headers={"Idempotency-Key": "s"})).text for _ in range(2)]
    assert mark.read_text() == "once\n"
    for stream in streams:
        assert '"data":"out\\n"' in stream
        assert '"exitCode":3' in stream
    assert len((await api.get(f"{PATH}/processes", params={"id": box})).json()["items"]) == 1
    assert (await _stored(stage, events)).count("sandbox.command.ended") == 1


async def test_a_refusal_is_not_kept(api: httpx.AsyncClient, box: str) -> None:
    body, headers = {"id": box, "command": "pwd", "cwd": "/nowhere-at-all"}, {"Idempotency-Key": "refused"}
    answers = [await api.post(f"{PATH}/exec", json=body, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [400, 400]
    assert "idempotent-replayed" not in answers[1].headers


async def test_keys_count_within_their_organisation_and_route(
    api: httpx.AsyncClient, stranger: httpx.AsyncClient, box: str
) -> None:
    headers = {"Idempotency-Key": "mine"}
    ids = [(await client.post(PATH, json={}, headers=headers)).json()["id"] for client in (api, stranger)]
    assert ids[0] != ids[1]
    ran = await api.post(f"{PATH}/exec", json={"id": box, "command": "true"}, headers=headers)
    assert (ran.status_code, ran.json()["id"]) == (200, box)


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
async def test_a_malformed_key_is_a_400_before_the_scope(stage: Stage, key: str) -> None:
    async with stage.client(await stage.key("acme", "unlimited", "usage:read")) as client:  # type: ignore[arg-type]
        response = await client.post(PATH, json={}, headers={"Idempotency-Key": key})
    assert response.status_code == 400
    assert response.json()["error"].startswith("Invalid Idempotency-Key")


async def test_of_many_at_once_with_one_key_each_gets_the_one_answer(api: httpx.AsyncClient, box: str) -> None:
    body, headers = {"id": box, "command": "echo $RANDOM$RANDOM"}, {"Idempotency-Key": "many"}
    answers = await asyncio.gather(*(api.post(f"{PATH}/exec", json=body, headers=headers) for _ in range(8)))
    assert len({answer.content for answer in answers}) == 1


def _kept(**fields: object) -> Kept:
    return Kept(**{"fingerprint": "f", "effect": "e", "owner": "me", "created_at": NOW, **fields})  # type: ignore[arg-type]


DECISIONS = [
    (None, _kept(effect="new")),
    (_kept(created_at=0), _kept(effect="new")),
    (_kept(), _kept()),
    (_kept(owner="one that died"), _kept()),
    (_kept(owner=FREE), _kept()),
    (_kept(owner=FREE, fingerprint="other"), _kept(effect="new")),
    (_kept(status=200, body=b"{}"), Answer(200, b"{}")),
    (_kept(status=200, body=None), _kept()),
]


@pytest.mark.parametrize(("kept", "decided"), DECISIONS, ids=range(len(DECISIONS)))
def test_what_a_repeated_request_gets(kept: Kept | None, decided: Answer | Kept) -> None:
    assert decide(kept, _kept(effect="new"), 1) == decided


@pytest.mark.parametrize("status", [None, 200])
def test_another_request_under_the_same_key_is_a_conflict(status: int | None) -> None:
    with pytest.raises(Conflict):
        decide(_kept(fingerprint="other", status=status), _kept(), 1)
