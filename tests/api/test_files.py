"""Files by HTTP, with the real guest inside."""

import base64
import os
from pathlib import Path

import httpx
import pytest_asyncio

from tests.api.stage import Stage
from tests.guests import GuestProgram

FS = "/v1/sandboxes/fs"


@pytest_asyncio.fixture
async def root(guest_program: GuestProgram) -> Path:
    """The workspace of the module's guest."""
    return guest_program.workspace


async def test_what_is_written_is_read_back(api: httpx.AsyncClient, box: str, root: Path) -> None:
    path = str(root / "a/b/text.txt")
    written = await api.post(f"{FS}/write", json={"id": box, "path": path, "content": "héllo"})
    assert (written.status_code, written.json()["entry"]["size"]) == (200, 6)
    body = (await api.get(f"{FS}/read", params={"id": box, "path": path})).json()
    assert body == {"path": path, "content": "héllo", "encoding": "utf-8", "size": 6}


async def test_bytes_that_are_no_text_come_as_base64(api: httpx.AsyncClient, box: str, root: Path) -> None:
    path = str(root / "bytes")
    content = base64.b64encode(b"\xff\x00").decode()
    await api.post(f"{FS}/write", json={"id": box, "path": path, "content": content, "encoding": "base64"})
    body = (await api.get(f"{FS}/read", params={"id": box, "path": path})).json()
    assert (body["encoding"], body["content"]) == ("base64", content)
    refused = await api.get(f"{FS}/read", params={"id": box, "path": path, "encoding": "utf-8"})
    assert refused.status_code == 400


async def test_errors_of_paths_are_clear(api: httpx.AsyncClient, box: str, root: Path) -> None:
    (root / "dir").mkdir(exist_ok=True)
    (root / "big").write_bytes(b"x" * ((10 << 20) + 1))
    missing = await api.get(f"{FS}/read", params={"id": box, "path": str(root / "none")})
    assert missing.status_code == 404
    directory = await api.get(f"{FS}/read", params={"id": box, "path": str(root / "dir")})
    assert directory.status_code == 400
    big = await api.get(f"{FS}/read", params={"id": box, "path": str(root / "big")})
    assert (big.status_code, "/v1/sandboxes/fs/download" in big.json()["error"]) == (413, True)
    nul = await api.get(f"{FS}/read", params={"id": box, "path": "/a\0b"})
    assert nul.status_code == 400
    both = await api.get(f"{FS}/read", params={"id": box, "path": "/a", "pathBase64": "L2E="})
    assert both.status_code == 400


async def test_directories_are_listed_with_names_of_any_bytes(api: httpx.AsyncClient, box: str, root: Path) -> None:
    home = root / "names"
    home.mkdir()
    Path(os.fsdecode(os.fsencode(home) + b"/\xff")).mkdir()
    (home / "link").symlink_to("target")
    body = (await api.get(f"{FS}/list", params={"id": box, "path": str(home)})).json()
    entries = {entry.get("name") or entry["nameBase64"]: entry for entry in body["entries"]}
    assert entries[base64.b64encode(b"\xff").decode()]["type"] == "directory"
    assert (entries["link"]["type"], entries["link"]["target"]) == ("symlink", "target")
    odd = base64.b64encode(os.fsencode(home) + b"/\xff/file").decode()
    written = await api.post(f"{FS}/write", json={"id": box, "pathBase64": odd, "content": "x"})
    assert written.status_code == 200
    whole = await api.get(f"{FS}/download", params={"id": box, "pathBase64": odd})
    assert whole.content == b"x"


async def test_files_are_arranged(api: httpx.AsyncClient, box: str, root: Path) -> None:
    home = root / "arranged"
    made = await api.post(f"{FS}/mkdir", json={"id": box, "path": str(home / "x/y")})
    assert made.json()["entry"]["type"] == "directory"
    moved = await api.post(f"{FS}/move", json={"id": box, "from": str(home / "x"), "to": str(home / "z")})
    assert moved.status_code == 200
    mode = await api.post(f"{FS}/chmod", json={"id": box, "path": str(home / "z"), "mode": 0o700})
    assert mode.json()["entry"]["mode"] & 0o777 == 0o700
    full = await api.post(f"{FS}/remove", json={"id": box, "path": str(home)})
    assert full.status_code in (400, 409)
    gone = await api.post(f"{FS}/remove", json={"id": box, "path": str(home), "recursive": True})
    assert gone.json() == {"ok": True}
    assert not home.exists()


async def test_downloads_take_ranges_and_cannot_trick_a_browser(api: httpx.AsyncClient, box: str, root: Path) -> None:
    (root / 'evil".html').write_bytes(b"0123456789")
    query = {"id": box, "path": str(root / 'evil".html')}
    whole = await api.get(f"{FS}/download", params=query)
    assert (whole.status_code, whole.content, whole.headers["content-length"]) == (200, b"0123456789", "10")
    assert whole.headers["content-type"] == "application/octet-stream"
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert whole.headers["content-security-policy"].startswith("sandbox")
    assert whole.headers["content-disposition"].startswith('attachment; filename="evil_.html"')
    for wanted, part, shown in (
        ("bytes=2-4", b"234", "bytes 2-4/10"),
        ("bytes=7-", b"789", "bytes 7-9/10"),
        ("bytes=-2", b"89", "bytes 8-9/10"),
    ):
        answer = await api.get(f"{FS}/download", params=query, headers={"Range": wanted})
        assert (answer.status_code, answer.content, answer.headers["content-range"]) == (206, part, shown)
    beyond = await api.get(f"{FS}/download", params=query, headers={"Range": "bytes=10-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */10")
    tag = {"If-None-Match": whole.headers["etag"]}
    assert (await api.get(f"{FS}/download", params=query, headers=tag)).status_code == 304
    stale = {"Range": "bytes=0-1", "If-Range": '"other"'}
    assert (await api.get(f"{FS}/download", params=query, headers=stale)).status_code == 200
    head = await api.head(f"{FS}/download", params=query)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "10", b"")


async def test_uploads_replace_whole_and_signed_urls_open_one_path(
    api: httpx.AsyncClient, stage: Stage, box: str, root: Path
) -> None:
    path = str(root / "up")
    put = await api.put(f"{FS}/upload", params={"id": box, "path": path}, content=b"x" * 1_000_000)
    assert put.json()["entry"]["size"] == 1_000_000
    up = (await api.post(f"{FS}/url", json={"id": box, "path": path, "operation": "upload"})).json()
    down = (await api.post(f"{FS}/url", json={"id": box, "path": path, "operation": "download"})).json()
    async with stage.client(None) as anyone:
        assert (await anyone.put(up["url"], content=b"new")).status_code == 200
        assert (await anyone.get(down["url"])).content == b"new"
        assert (await anyone.get(down["url"].replace("up&", "down&"))).status_code == 401
        assert (await anyone.get(up["url"].replace("upload", "download"))).status_code == 401
        assert (await anyone.get(down["url"][:-1])).status_code == 401
        stage.clock.ahead_ms = 300_001
        assert (await anyone.get(down["url"])).status_code == 401


async def test_a_revoked_key_takes_its_urls_with_it(
    api: httpx.AsyncClient, stage: Stage, key: str, box: str, root: Path
) -> None:
    (root / "f").write_bytes(b"x")
    down = (await api.post(f"{FS}/url", json={"id": box, "path": str(root / "f"), "operation": "download"})).json()
    await stage.keys.revoke((await stage.keys.authenticate(key)).key_id)
    async with stage.client(None) as anyone:
        assert (await anyone.get(down["url"])).status_code == 401
