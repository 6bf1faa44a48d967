"""Files by HTTP: text and bytes, odd names, ranges, atomic replace, clear errors, and streams at constant memory."""

import base64
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.clients import Sandbox, eventually
from tests.services import Service

MIB = 1 << 20
BIG = int(os.environ.get("TEST_BIG_FILE_MIB", "512")) * MIB
ODD_NAMES = [
    "a b",
    "-rf",
    "'\"",
    "é…😀",
    "new\nline",
    "*?[x]",
    "$(id)",
    "a" * 255,
    ".hidden",
    "tab\tname",
    "%2e%2e",
    "a+b&c=d#e",
]


@pytest.mark.parametrize("content", [b"", b"text\n", bytes(range(256)) * 100], ids=["empty", "text", "bytes"])
def test_what_is_written_is_read_back(sandbox: Sandbox, content: bytes) -> None:
    sandbox.write("/workspace/deep/er/file", content)
    assert sandbox.read("/workspace/deep/er/file") == content
    assert sandbox.download("/workspace/deep/er/file").content == content


def test_text_is_written_and_read_as_text_by_default(sandbox: Sandbox) -> None:
    sandbox.post("/fs/write", path="/workspace/t.txt", content="grüße\n")
    answer = sandbox.api.call("GET", "/fs/read", params={"id": sandbox.id, "path": "/workspace/t.txt"})
    assert answer["content"] == "grüße\n"
    assert (answer["path"], answer["encoding"], answer["size"]) == ("/workspace/t.txt", "utf-8", 8)


@pytest.mark.parametrize("name", ODD_NAMES, ids=range(len(ODD_NAMES)))
def test_an_odd_name_is_written_listed_read_and_removed(sandbox: Sandbox, name: str) -> None:
    path = f"/workspace/odd/{name}"
    sandbox.write(path, name.encode())
    assert sandbox.entries("/workspace/odd")[name]["path"] == path
    assert sandbox.download(path).content == name.encode()
    assert sandbox.read(path) == name.encode()
    sandbox.post("/fs/remove", path=path)
    assert name not in sandbox.entries("/workspace/odd")


def test_a_name_that_is_not_utf_8_travels_as_base64(sandbox: Sandbox) -> None:
    sandbox.run("mkdir -p raw && printf x > raw/$(printf 'b\\377d')")
    (entry,) = sandbox.entries("/workspace/raw").values()
    assert base64.b64decode(entry["pathBase64"]) == b"/workspace/raw/b\xffd"
    response = sandbox.api.ask("GET", "/fs/download", params={"id": sandbox.id, "pathBase64": entry["pathBase64"]})
    assert (response.status_code, response.content) == (200, b"x"), response.text


def test_a_list_tells_kind_size_mode_and_target(sandbox: Sandbox) -> None:
    sandbox.run("mkdir -p kinds/dir && cd kinds && printf 12345 > f && chmod 640 f && ln -sf f link && mkfifo -m 600 p")
    entries = sandbox.entries("/workspace/kinds")
    kinds = {name: entry["type"] for name, entry in entries.items()}
    assert kinds == {"dir": "directory", "f": "file", "link": "symlink", "p": "other"}
    assert entries["f"]["size"] == 5
    assert entries["f"]["mode"] == 0o640
    assert entries["link"]["target"] == "f"
    assert entries["f"]["modifiedAt"] > 1_600_000_000_000
    assert {"kinds"} <= set(sandbox.entries())


def test_ten_thousand_entries_are_listed(sandbox: Sandbox) -> None:
    sandbox.run("mkdir -p many && cd many && seq 1 10000 | xargs touch")
    assert len(sandbox.entries("/workspace/many")) == 10_000


@pytest.mark.parametrize(
    ("asked", "status", "expected"),
    [
        ("bytes=0-4", 206, slice(0, 5)),
        ("bytes=5-", 206, slice(5, None)),
        ("bytes=-3", 206, slice(-3, None)),
        ("bytes=999-2000", 206, slice(999, 1000)),
        ("bytes=1000-", 416, None),
        ("lines=1-2", 200, slice(None)),
    ],
)
def test_a_range_is_answered_as_http_says(sandbox: Sandbox, asked: str, status: int, expected: slice | None) -> None:
    content = bytes(n % 251 for n in range(1000))
    sandbox.write("/workspace/range.bin", content)
    response = sandbox.download("/workspace/range.bin", Range=asked)
    assert response.status_code == status
    if expected is not None:
        assert response.content == content[expected]
    if status == 206 and expected is not None:
        start = range(1000)[expected][0]
        assert response.headers["content-range"] == f"bytes {start}-{start + len(response.content) - 1}/1000"
    if status == 416:
        assert response.headers["content-range"] == "bytes */1000"


def test_stat_mkdir_move_chmod_and_remove_do_what_they_say(sandbox: Sandbox) -> None:
    sandbox.post("/fs/mkdir", path="/workspace/tree/leaf")
    sandbox.write("/workspace/tree/leaf/f", b"one")
    sandbox.post("/fs/move", **{"from": "/workspace/tree/leaf/f", "to": "/workspace/tree/g"})
    sandbox.post("/fs/chmod", path="/workspace/tree/g", mode=0o755)
    assert sandbox.run("stat -c '%a %s' tree/g") == "755 3\n"
    answer = sandbox.api.call("GET", "/fs/stat", params={"id": sandbox.id, "path": "/workspace/tree/g"})
    entry = answer["entry"]
    assert (entry["type"], entry["size"]) == ("file", 3)
    refused = sandbox.api.ask("POST", "/fs/remove", json={"id": sandbox.id, "path": "/workspace/tree"})
    assert refused.status_code in (400, 409), refused.text
    sandbox.post("/fs/remove", path="/workspace/tree", recursive=True)
    assert "tree" not in sandbox.entries()


@pytest.mark.parametrize(
    ("route", "path", "status"),
    [
        ("/fs/read", "/workspace/absent", 404),
        ("/fs/download", "/workspace/absent", 404),
        ("/fs/list", "/workspace/absent", 404),
        ("/fs/stat", "/workspace/absent", 404),
        ("/fs/read", "/workspace", 400),
        ("/fs/download", "/workspace", 400),
        ("/fs/list", "/etc/passwd", 400),
        ("/fs/read", "/dev/zero", 409),
        ("/fs/read", "/proc/1/mem", 409),
        ("/fs/read", "a\0b", 400),
        ("/fs/read", "x/" * 3000, 400),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_sentence(sandbox: Sandbox, route: str, path: str, status: int) -> None:
    response = sandbox.api.ask("GET", route, params={"id": sandbox.id, "path": path})
    assert response.status_code == status, response.text
    assert path[:20] in response.json()["error"] or status == 400


def test_files_of_proc_are_read_whole_though_they_call_themselves_empty(sandbox: Sandbox) -> None:
    assert sandbox.read("/proc/sys/kernel/hostname").decode() == sandbox.run("cat /proc/sys/kernel/hostname")
    assert b"MemTotal" in sandbox.read("/proc/meminfo")


def test_a_file_too_large_to_read_inline_is_refused_and_can_be_downloaded(sandbox: Sandbox) -> None:
    sandbox.run("head -c 11000000 /dev/zero > large.bin")
    response = sandbox.api.ask("GET", "/fs/read", params={"id": sandbox.id, "path": "/workspace/large.bin"})
    assert response.status_code in (400, 413), response.text
    assert "download" in response.json()["error"].lower()
    assert len(sandbox.download("/workspace/large.bin").content) == 11_000_000


def test_a_reader_sees_the_old_file_or_the_new_one_and_nothing_between(sandbox: Sandbox) -> None:
    old, new = b"a" * 200_000, b"b" * 300_000
    sandbox.write("/workspace/atomic", old)
    line = "for n in $(seq 400); do sha256sum < atomic; done | sort -u"
    seen: list[str] = []
    reader = threading.Thread(target=lambda: seen.extend(sandbox.run(line).split()))
    reader.start()
    for _ in range(6):
        sandbox.write("/workspace/atomic", new)
        sandbox.write("/workspace/atomic", old)
    reader.join()
    whole = {hashlib.sha256(content).hexdigest() for content in (old, new)}
    assert {word for word in seen if word != "-"} <= whole


def test_an_upload_that_breaks_off_leaves_the_old_file_and_no_rubbish(sandbox: Sandbox) -> None:
    sandbox.run("rm -rf broken; mkdir broken")
    sandbox.write("/workspace/broken/f", b"old")

    def half() -> Iterator[bytes]:
        yield b"x" * MIB
        raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        sandbox.upload("/workspace/broken/f", half())
    assert sandbox.read("/workspace/broken/f") == b"old"
    eventually("only the old file", lambda: set(sandbox.entries("/workspace/broken")) == {"f"}, within_s=10)


def test_a_symlink_leads_nowhere_but_into_the_sandbox(sandbox: Sandbox) -> None:
    sandbox.run(
        "rm -f out up; ln -s /etc/hostname out; ln -s ../../../../../../etc/hostname up; hostname > /etc/hostname"
    )
    hostname = sandbox.run("cat /etc/hostname").encode()
    for link in ("out", "up"):
        response = sandbox.download(f"/workspace/{link}")
        assert response.status_code >= 400 or response.content == hostname
        assert Path("/etc/hostname").read_bytes().strip() not in response.content or not response.is_success


def test_a_large_file_goes_both_ways_and_the_services_do_not_grow(service: Service, sandbox: Sandbox) -> None:
    block = os.urandom(4 * MIB)
    sent = hashlib.sha256()

    def pieces() -> Iterator[bytes]:
        for number in range(BIG // len(block)):
            piece = number.to_bytes(8, "big") + block[8:]
            sent.update(piece)
            yield piece

    before = peaks(service)
    sandbox.upload("/workspace/big", pieces())
    got = hashlib.sha256()
    with sandbox.api.http.stream(
        "GET", "/v1/sandboxes/fs/download", params={"id": sandbox.id, "path": "/workspace/big"}
    ) as response:
        assert response.headers["content-length"] == str(BIG)
        for chunk in response.iter_raw():
            got.update(chunk)
    assert got.hexdigest() == sent.hexdigest()
    assert sandbox.run("stat -c %s big; rm big") == f"{BIG}\n"
    grown = {name: peak - before[name] for name, peak in peaks(service).items()}
    assert all(kib < 64 * 1024 for kib in grown.values()), f"KiB more than before at the peak: {grown}"


def peaks(service: Service) -> dict[str, int]:
    """The highest resident size that each service has had, in KiB."""
    found = {}
    for name, process in service.running.items():
        status = Path(f"/proc/{process.pid}/status").read_text()
        found[name] = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    return found


def test_a_signed_url_gives_the_file_without_a_key_and_only_that_file(sandbox: Sandbox) -> None:
    sandbox.write("/workspace/shared.txt", b"for you")
    answer = sandbox.post("/fs/url", path="/workspace/shared.txt", operation="download")
    url = answer["url"]
    assert url.startswith(sandbox.api.url)
    assert httpx.get(url).content == b"for you"
    assert "shared.txt" in url
    assert httpx.get(url.replace("shared.txt", "other.txt")).status_code == 401
    assert httpx.get(url[:-3] + "aaa").status_code == 401
