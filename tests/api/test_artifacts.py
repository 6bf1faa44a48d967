"""Artifacts by the API: published from a real guest, within the plan, seen by their organisation alone, outliving."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from urllib.parse import urlsplit

import httpx
import pytest

from boxkeep_server.control.artifacts import Artifacts
from boxkeep_server.control.reconcile.retire import SPARED_MS, Retire
from boxkeep_server.control.strays import Strays
from boxkeep_server.model.artifacts import Artifact
from boxkeep_server.model.ids import new_id
from boxkeep_server.model.plans import BUILT_IN
from boxkeep_server.model.sandboxes import NewSandbox, Reason
from boxkeep_server.model.scopes import Scope
from boxkeep_server.store import artifacts, events
from tests.api.stage import PUBLIC, Stage
from tests.guests import GuestProgram

S = "/v1/sandboxes"
A = f"{S}/artifacts"
DAY_MS = 86_400_000


async def write(api: httpx.AsyncClient, box: str, path: str, data: bytes) -> None:
    """Put a file into a sandbox."""
    done = await api.put(f"{S}/fs/upload", params={"id": box, "path": path}, content=data)
    assert done.status_code == 200, done.text


async def publish(api: httpx.AsyncClient, box: str, data: bytes, name: str, **more: str) -> dict[str, object]:
    """Publish these bytes as a file of this name."""
    await write(api, box, f"/tmp/boxkeep-artifacts/{name}", data)
    done = await api.post(A, json={"id": box, "path": f"/tmp/boxkeep-artifacts/{name}", **more})
    assert done.status_code == 200, done.text
    return dict(done.json())


async def stored(stage: Stage) -> list[str]:
    """The keys of all blobs."""
    return [blob.key for blob in (await stage.blobs.list("")).items]


async def test_a_published_file_is_described_listed_and_downloaded(
    stage: Stage, api: httpx.AsyncClient, box: str
) -> None:
    data = b"a,b\n1,2\n" * 100_000
    made = await publish(api, box, data, "table.csv")
    assert made == {
        "key": "table.csv",
        "size": len(data),
        "contentType": "text/csv",
        "sha256": hashlib.sha256(data).hexdigest(),
        "createdAt": made["createdAt"],
        "sandboxId": box,
    }
    assert (await api.get(A, params={"id": box})).json() == {"items": [made], "nextCursor": None}
    shown = (await api.get(S, params={"id": box})).json()["artifacts"]
    assert shown == {"count": 1, "bytes": len(data), "updatedAt": made["createdAt"]}
    got = await api.get(f"{A}/download", params={"id": box, "key": "table.csv"})
    assert got.content == data


async def test_nothing_published_is_null_and_an_empty_list(api: httpx.AsyncClient, box: str) -> None:
    assert (await api.get(S, params={"id": box})).json()["artifacts"] is None
    assert (await api.get(A, params={"id": box})).json() == {"items": [], "nextCursor": None}


async def test_a_signed_url_serves_ranges_and_never_shows(stage: Stage, api: httpx.AsyncClient, box: str) -> None:
    made = await publish(api, box, b"<script>0123456789</script>", "ü page.html")
    signed = (await api.get(f"{A}/url", params={"id": box, "key": made["key"]})).json()
    assert signed["url"].startswith(f"{PUBLIC}{A}/download?")
    assert signed["expiresAt"] > stage.clock()
    async with stage.client(None) as anyone:
        whole = await anyone.get(signed["url"])
        part = await anyone.get(signed["url"], headers={"Range": "bytes=8-11"})
        none = await anyone.get(signed["url"], headers={"Range": "bytes=999-"})
        same = await anyone.get(signed["url"], headers={"If-None-Match": whole.headers["etag"]})
        other = await anyone.get(signed["url"], headers={"Range": "bytes=0-1", "If-Range": '"other"'})
        forged = await anyone.get(signed["url"].replace("page", "pagf"))
        as_file = await anyone.get(f"{S}/fs/download?{urlsplit(signed['url']).query}")
    assert whole.content == b"<script>0123456789</script>"
    assert whole.headers["content-disposition"].startswith("attachment; ")
    assert whole.headers["content-security-policy"].startswith("sandbox")
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert whole.headers["etag"] == f'"{made["sha256"]}"'
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"0123", "bytes 8-11/27")
    assert [none.status_code, same.status_code, other.status_code] == [416, 304, 200]
    assert [forged.status_code, as_file.status_code] == [401, 401]


async def test_a_signed_url_dies_with_its_key(stage: Stage, api: httpx.AsyncClient, box: str, key: str) -> None:
    await publish(api, box, b"x", "x")
    signed = (await api.get(f"{A}/url", params={"id": box, "key": "x"})).json()["url"]
    await stage.keys.revoke((await stage.keys.authenticate(key)).key_id)
    async with stage.client(None) as anyone:
        assert (await anyone.get(signed)).status_code == 401


async def test_the_same_key_again_replaces_and_the_old_bytes_go(stage: Stage, api: httpx.AsyncClient, box: str) -> None:
    first = await publish(api, box, b"one", "file")
    second = await publish(api, box, b"two", "file")
    again = await publish(api, box, b"two", "file")
    assert first["sha256"] != second["sha256"]
    assert again == second
    assert (await api.get(A, params={"id": box})).json()["items"] == [second]
    assert len(await stored(stage)) == 1
    assert (await api.get(f"{A}/download", params={"id": box, "key": "file"})).content == b"two"


async def test_many_who_publish_under_one_key_leave_one_artifact_and_one_blob(
    stage: Stage, api: httpx.AsyncClient, box: str
) -> None:
    for n in range(6):
        await write(api, box, f"/tmp/race{n}", bytes([n]) * 1000)
    posts = [api.post(A, json={"id": box, "path": f"/tmp/race{n}", "key": "raced"}) for n in range(6)]
    assert {done.status_code for done in await asyncio.gather(*posts)} == {200}
    [left] = (await api.get(A, params={"id": box})).json()["items"]
    assert len(await stored(stage)) == 1
    got = await api.get(f"{A}/download", params={"id": box, "key": "raced"})
    assert hashlib.sha256(got.content).hexdigest() == left["sha256"]


async def test_keys_lie_under_the_sandbox_s_prefix(
    stage: Stage, api: httpx.AsyncClient, key: str, guest_program: GuestProgram
) -> None:
    wish = NewSandbox(runtime="base", capabilities={"storage": {"artifactPrefix": "/runs/7/"}})
    box = (await stage.sandboxes.create(await stage.keys.authenticate(key), wish)).id
    await stage.make_ready(box, guest_program.address)
    assert (await publish(api, box, b"x", "x"))["key"] == "runs/7/x"
    assert (await publish(api, box, b"x", "x", key="runs/7/x"))["key"] == "runs/7/x"
    escaped = await api.post(A, json={"id": box, "path": "/tmp/boxkeep-artifacts/x", "key": "../x"})
    assert escaped.status_code == 400


@pytest.mark.parametrize("wished", ["/x", "a//b", "..", "a/./b", "a\nb", "x/", "é" * 600])
async def test_what_is_no_key_is_refused_in_a_sentence(api: httpx.AsyncClient, box: str, wished: str) -> None:
    done = await api.post(A, json={"id": box, "path": "/etc/hostname", "key": wished})
    assert done.status_code == 400
    assert "key" in done.json()["error"]


async def test_the_plan_s_storage_holds_under_a_race_and_leaves_no_bytes(
    stage: Stage, box: str, api: httpx.AsyncClient
) -> None:
    await stage.keys.put_plan(replace(BUILT_IN["unlimited"], stored_bytes=2500))
    for n in range(5):
        await write(api, box, f"/tmp/limit{n}", bytes([n]) * 1000)
    posts = [api.post(A, json={"id": box, "path": f"/tmp/limit{n}"}) for n in range(5)]
    ends = await asyncio.gather(*posts)
    refused = [end for end in ends if end.status_code != 200]
    assert [(end.status_code, end.json()["error"]) for end in refused] == [(429, "Storage limit reached")] * 3
    assert len(await stored(stage)) == 2


async def test_another_organisation_finds_nothing(
    api: httpx.AsyncClient, stranger: httpx.AsyncClient, box: str
) -> None:
    await publish(api, box, b"x", "x")
    asked = [
        await stranger.post(A, json={"id": box, "path": "/etc/hostname"}),
        await stranger.post(A, json={"id": box}),
        await stranger.get(A, params={"id": box}),
        await stranger.get(f"{A}/url", params={"id": box, "key": "x"}),
        await stranger.get(f"{A}/download", params={"id": box, "key": "x"}),
        await stranger.delete(A, params={"id": box, "key": "x"}),
    ]
    assert [end.status_code for end in asked] == [404] * 6


async def test_a_key_without_the_scope_may_nothing(stage: Stage, api: httpx.AsyncClient, box: str) -> None:
    async with stage.client(await stage.key("acme", "unlimited", Scope.READ)) as reader:
        assert (await reader.get(A, params={"id": box})).status_code == 403
        assert (await reader.post(A, json={"id": box})).status_code == 403


async def test_artifacts_outlive_their_sandbox_and_can_be_deleted_then(
    stage: Stage, api: httpx.AsyncClient, box: str
) -> None:
    await publish(api, box, b"kept", "kept")
    await stage.sandboxes.end_for(box, Reason.USER_REQUEST, "test")
    assert (await api.get(f"{A}/download", params={"id": box, "key": "kept"})).content == b"kept"
    assert (await api.post(A, json={"id": box, "path": "/etc/hostname"})).status_code == 409
    assert (await api.delete(A, params={"id": box, "key": "kept"})).json() == {"ok": True}
    assert (await api.delete(A, params={"id": box, "key": "kept"})).status_code == 404
    assert await stored(stage) == []


async def test_a_folder_is_published_without_following_links(
    stage: Stage, api: httpx.AsyncClient, box: str, key: str, guest_program: GuestProgram
) -> None:
    root = guest_program.workspace / "artifacts"
    (root / "sub").mkdir(parents=True)
    (root / "a.txt").write_text("a")
    (root / "sub" / "b").write_text("b")
    (root / "etc").symlink_to("/etc")
    (root / "passwd").symlink_to("/etc/passwd")
    strays = Strays(stage.database, stage.blobs)
    parts = (stage.sandboxes, stage.parts.files, stage.blobs, strays)
    use = Artifacts(stage.database, stage.steps, *parts, new_id, folder=str(root))
    done = await use.publish_folder(await stage.keys.authenticate(key), box)
    assert [item.key for item in done.items] == ["a.txt", "sub/b"]
    assert list(done.skipped) == ["etc", "passwd"]
    assert (await api.get(f"{A}/download", params={"id": box, "key": "sub/b"})).content == b"b"


async def test_a_folder_that_is_not_there_publishes_nothing(api: httpx.AsyncClient, box: str) -> None:
    assert (await api.post(A, json={"id": box})).json() == {"items": [], "skipped": []}
    assert (await api.post(A, json={"id": box, "key": "x"})).status_code == 400


async def test_each_change_is_an_event_in_order(stage: Stage, api: httpx.AsyncClient, box: str) -> None:
    await publish(api, box, b"12345", "x")
    await api.delete(A, params={"id": box, "key": "x"})
    async with stage.database.reading() as connection:
        told = [event for event in await events.after(connection, box, 0) if "artifacts" in event.type]
    assert [event.data for event in told] == [
        {"key": "x", "count": 1, "bytes": 5},
        {"key": "x", "count": 0, "bytes": 0},
    ]


async def test_a_repeated_post_under_an_idempotency_key_publishes_once(
    stage: Stage, api: httpx.AsyncClient, box: str
) -> None:
    await write(api, box, "/tmp/once", b"first")
    once = {"headers": {"Idempotency-Key": "once"}, "json": {"id": box, "path": "/tmp/once"}}
    first = await api.post(A, **once)
    await write(api, box, "/tmp/once", b"second")
    assert (await api.post(A, **once)).json() == first.json()
    assert (await api.get(f"{A}/download", params={"id": box, "key": "once"})).content == b"first"


async def test_what_is_too_old_goes_and_so_does_a_blob_that_no_row_names(
    stage: Stage, api: httpx.AsyncClient, box: str
) -> None:
    retire = Retire(stage.database, stage.steps, stage.blobs, Strays(stage.database, stage.blobs), kept_ms=30 * DAY_MS)
    await publish(api, box, b"named", "named")
    unnamed = Artifact("f" * 32, "e" * 32, box, "k", 1, "", "", 0).blob

    async def half() -> AsyncIterator[bytes]:
        yield b"half"

    await stage.blobs.put(unnamed, half())
    assert (await retire.run_once(), await retire.sweep()) == (0, 0)
    stage.clock.ahead_ms = SPARED_MS + 60_000
    assert (await retire.run_once(), await retire.sweep()) == (0, 1)
    assert unnamed not in await stored(stage)
    assert (await api.get(f"{A}/download", params={"id": box, "key": "named"})).content == b"named"
    stage.clock.ahead_ms = 31 * DAY_MS
    assert await retire.run_once() == 1
    assert await stored(stage) == []
    async with stage.database.reading() as connection:
        assert await artifacts.kept(connection, box) is None


async def test_bytes_that_were_damaged_in_the_store_break_the_download_off(
    stage: Stage, api: httpx.AsyncClient, box: str, served: str, key: str
) -> None:
    await publish(api, box, b"x" * 600_000, "file")
    [blob] = await stored(stage)

    async def others() -> AsyncIterator[bytes]:
        yield b"y" * 600_000

    await stage.blobs.put(blob, others())
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {key}"}) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"http://{served}{A}/download", params={"id": box, "key": "file"})
