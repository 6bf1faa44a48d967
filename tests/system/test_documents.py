"""Documents converted in sandboxes by the real LibreOffice and poppler."""

import asyncio
import base64
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from boxkeep_server.guestwire import GuestAddress, GuestPool
from boxkeep_server.model.documents import sources, targets_of
from boxkeep_server.model.ids import new_id
from boxkeep_server.model.images import SOFTWARE
from boxkeep_server.model.machines import Key
from boxkeep_server.model.node_api import ClaimWish
from boxkeep_server.nodes.client import NodeClient
from tests import papers
from tests.clients import Api, Refused, Sandbox, eventually, fresh
from tests.ingredients import images
from tests.services import Service, running_service

DOCUMENTS = {"documents": {"libreofficeHeadless": True}}
W = "/workspace"
ZIPS = ("docx", "xlsx", "pptx", "odt", "ods", "odp", "odg")
BEGINNINGS: dict[str, bytes] = {
    **dict.fromkeys(ZIPS, b"PK\x03\x04"),
    **dict.fromkeys(("doc", "xls", "ppt"), b"\xd0\xcf\x11\xe0"),
    "pdf": b"%PDF-",
    "png": b"\x89PNG",
    "jpg": b"\xff\xd8\xff",
    "rtf": b"{\\rtf",
}
LISTENER = """
import http.server
class Told(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        open("/tmp/told", "a").write(self.path + chr(10))
        self.send_error(404)
    do_HEAD = do_OPTIONS = do_PROPFIND = do_GET
class Quick(http.server.ThreadingHTTPServer):
    def server_bind(self):
        self.socket.setsockopt(1, 2, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "here", 8099
Quick(("127.0.0.1", 8099), Told).serve_forever()
"""


@pytest.fixture(scope="module")
def office() -> Iterator[Service]:
    """A service whose images have documents and opencode."""
    place = {"BOXKEEP_NODE__IMAGES": str(images(*SOFTWARE)), "BOXKEEP_NODE__WARM": "{}"}
    with running_service(place, beside="d") as running:
        api = running.api("first")

        def there() -> bool:
            made = api.ask("POST", "", json={"runtime": "base", "capabilities": DOCUMENTS})
            if made.status_code == 501:
                assert "boxkeep images build --capability documents" in made.json()["error"]
                return False
            api.delete(made.json()["id"])
            return True

        eventually("the node to have unpacked the images", there, 180, 1)
        yield running


@pytest.fixture(scope="module")
def api(office: Service) -> Api:
    return office.api("writers")


@pytest.fixture(scope="module")
def box(api: Api, isolation: str) -> Iterator[Sandbox]:
    with fresh(api, runtime="base", isolation=isolation, capabilities=DOCUMENTS) as made:
        yield made


def put(box: Sandbox, name: str, content: bytes | str) -> str:
    """A file in the workspace, and its path."""
    data = content.encode() if isinstance(content, str) else content
    path = f"{W}/{name}"
    box.post("/fs/write", path=path, content=base64.b64encode(data).decode(), encoding="base64")
    return path


def content(box: Sandbox, path: str) -> bytes:
    return bytes(box.api.ask("GET", "/fs/download", params={"id": box.id, "path": path}).content)


def convert(box: Sandbox, path: str, target: str, **more: Any) -> dict[str, Any]:
    """A conversion that succeeds, whose answer is true."""
    made: dict[str, Any] = box.post("/documents/convert", path=path, format=target, **more)
    found = content(box, made["path"])
    assert (made["size"], made["sha256"]) == (len(found), hashlib.sha256(found).hexdigest())
    assert found.startswith(BEGINNINGS.get(target, b"")), (path, target, found[:40])
    return made


def refused(box: Sandbox, path: str, target: str, **more: Any) -> tuple[int, str, str | None]:
    with pytest.raises(Refused) as error:
        convert(box, path, target, **more)
    return error.value.status, error.value.body["error"], error.value.body.get("code")


@pytest.fixture(scope="module")
def every(box: Sandbox) -> str:
    """The path of `paper.`, which there is of each format, all made from those that were written by hand."""
    seeds = {"txt": papers.TEXT, "csv": papers.SHEET, "odp": papers.slides(), "svg": papers.SVG}
    made = {name: put(box, f"every/paper.{name}", text) for name, text in seeds.items()}
    put(box, "every/paper.gif", papers.GIF)
    put(box, "every/paper.webp", papers.WEBP)
    for seed, targets in {
        "txt": ("docx", "doc", "odt", "rtf", "html", "pdf"),
        "csv": ("xlsx", "xls", "ods"),
        "odp": ("pptx", "ppt"),
        "svg": ("odg", "png", "jpg"),
    }.items():
        for target in targets:
            convert(box, made[seed], target)
    return f"{W}/every/paper."


PICTURES = ("gif", "webp", "png", "jpg")


@pytest.mark.parametrize("source", sources())
def test_every_pair_that_is_offered_is_converted_by_the_real_programs(
    box: Sandbox, every: str, isolation: str, source: str
) -> None:
    """Under gVisor a pair of each source: the runtime sees processes, files and memory, and nothing of formats."""
    targets = targets_of(source)[: None if isolation == "runc" else 1]
    for target in targets:
        made = convert(box, f"{every}{source}", target, outputPath=f"{W}/out/{source}.{target}")
        assert made["format"] == target
        said = content(box, made["path"])
        if target == "pdf":
            said = box.run(f"pdftotext {made['path']} -").encode()
        if target in ("txt", "html", "csv", "pdf") and source not in PICTURES:
            assert papers.MARK.encode() in said, (source, target, said[:200])
    told = box.run(f"cd {W}/out; file {source}.*")
    for target, words in {"docx": "Microsoft Word 2007+", "xlsx": "Microsoft Excel 2007+", "svg": "SVG"}.items():
        assert target not in targets or words in told


def test_a_page_is_a_picture_and_letters_have_their_fonts(box: Sandbox) -> None:
    put(box, "slides.odp", papers.slides())
    first = convert(box, f"{W}/slides.odp", "png", outputPath=f"{W}/1.png")
    second = convert(box, f"{W}/slides.odp", "png", page=2, outputPath=f"{W}/2.png")
    assert first["sha256"] != second["sha256"]
    assert refused(box, f"{W}/slides.odp", "png", page=3)[:2] == (400, "Invalid page: the document has no such page")
    put(box, "letters.txt", "Ünïcode 日本語 한국어 😀")
    convert(box, f"{W}/letters.txt", "pdf")
    fonts = box.run(f"pdffonts {W}/letters.pdf")
    assert "CJK" in fonts
    assert "Symbola" in fonts
    assert convert(box, f"{W}/letters.pdf", "txt", outputPath=f"{W}/again.txt")
    assert "日本語 한국어" in content(box, f"{W}/again.txt").decode()


def test_comments_do_no_harm_and_are_kept_where_they_can_be(box: Sandbox) -> None:
    path = put(box, "margin.odt", papers.with_a_comment())
    for _ in range(3):
        convert(box, path, "pdf")
    assert box.run(f"pdfinfo {W}/margin.pdf | grep Pages").split() == ["Pages:", "2"]
    convert(box, path, "docx")
    assert "a word at the margin" in box.run(f"unzip -p {W}/margin.docx word/comments.xml")
    convert(box, f"{W}/margin.docx", "pdf", outputPath=f"{W}/again.pdf")


def test_the_answer_tells_the_result_which_may_be_an_artifact_too(api: Api, box: Sandbox) -> None:
    put(box, "report.txt", papers.TEXT)
    made = convert(box, f"{W}/report.txt", "pdf", artifact={"key": "reports/report.pdf"})
    assert made["artifact"]["key"] == "reports/report.pdf"
    assert made["artifact"]["sha256"] == made["sha256"]
    assert made["artifact"]["contentType"] == "application/pdf"
    assert made["durationMs"] > 0
    assert convert(box, f"{W}/report.txt", "odt")["artifact"] is None
    told = api.call("GET", "/timeline", params={"id": box.id, "limit": 1000})["items"]
    done = [one["data"] for one in told if one["type"] == "sandbox.document.converted"]
    assert {"path": f"{W}/report.txt", "outputPath": f"{W}/report.pdf", "format": "pdf"}.items() <= done[-2].items()
    assert done[-2]["artifactKey"] == "reports/report.pdf"


@pytest.mark.parametrize("name", ["-o.txt", "a b'\"$(x).txt", "日本\n語.txt", "../workspace/up.txt", "x.y.TXT"])
def test_names_may_be_anything(box: Sandbox, name: str) -> None:
    path = put(box, name, papers.TEXT)
    assert convert(box, path, "pdf")["path"].endswith(".pdf")


def test_files_of_root_are_read_and_the_result_is_whole_and_roots(box: Sandbox) -> None:
    put(box, "own.txt", papers.TEXT)
    box.run(f"chmod 600 {W}/own.txt; mkdir -m 700 {W}/locked; echo before > {W}/locked/own.pdf")
    convert(box, f"{W}/own.txt", "pdf", outputPath=f"{W}/locked/own.pdf")
    assert box.run(f"stat -c '%U %a' {W}/locked/own.pdf").split() == ["root", "644"]
    assert box.run(f"ls -A {W}/locked").split() == ["own.pdf"]


def test_what_is_no_file_or_no_place_for_one_is_told(box: Sandbox) -> None:
    box.run(f"cd {W}; mkdir -p dir.txt; mkfifo pipe.txt; ln -sf /dev/zero zero.txt; echo x > plain.txt")
    assert refused(box, f"{W}/missing.txt", "pdf")[0] == 404
    for name in ("dir.txt", "pipe.txt", "zero.txt"):
        assert refused(box, f"{W}/{name}", "pdf")[:2] == (400, "Invalid path: not a regular file")
    for place in (f"{W}/dir.txt", f"{W}/plain.txt/below.pdf", "/proc/own.pdf"):
        assert refused(box, f"{W}/plain.txt", "pdf", outputPath=place)[0] == 400, place
    assert refused(box, f"{W}/plain.txt", "xlsx")[1].startswith("Invalid format: txt can be converted to doc, docx,")
    assert refused(box, f"{W}/plain.exe", "pdf")[1].startswith("Invalid path: its name must end with one of")


def test_what_is_broken_or_protected_is_told_and_the_next_is_converted(box: Sandbox) -> None:
    whole = open_docx(box)
    broken = {
        "half.docx": whole[: len(whole) // 2],
        "rubbish.docx": bytes(range(256)) * 40,
        "rubbish.odt": b"PK\x03\x04" + bytes(range(256)) * 40,
        "rubbish.doc": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(4000),
        "rubbish.pdf": b"%PDF-1.7\nnothing",
        "empty.docx": b"",
        "binary.txt": b"\x00\x01" * 900,
        "text.png": b"a text",
    }
    for name, data in broken.items():
        status, sentence, code = refused(box, put(box, name, data), "pdf" if "pdf" not in name else "txt")
        assert (status, code) == (400, "DOCUMENT_DAMAGED"), (name, sentence)
    for name, data in {
        "locked.odt": papers.protected(),
        "locked.docx": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" * 9,
    }.items():
        assert refused(box, put(box, name, data), "pdf") == (
            400,
            "The document is protected by a password",
            "DOCUMENT_PROTECTED",
        )
    convert(box, put(box, "good.txt", papers.TEXT), "pdf")


def open_docx(box: Sandbox) -> bytes:
    return content(box, convert(box, put(box, "whole.txt", papers.TEXT), "docx")["path"])


def offices(box: Sandbox) -> list[str]:
    return box.run("pgrep -u user -x soffice.bin || true").split()


def test_what_takes_too_long_ends_with_all_its_processes_and_the_next_is_converted(box: Sandbox) -> None:
    convert(box, put(box, "small.txt", papers.TEXT), "pdf")
    (before,) = offices(box)
    box.run(f"seq 1 1500000 | sed 's/$/,=A1*2,text/' > {W}/huge.csv")
    status, sentence, _ = refused(box, f"{W}/huge.csv", "pdf", timeoutMs=3000)
    assert (status, sentence) == (504, "The document was not converted within 3000 ms")
    eventually("that LibreOffice to be gone", lambda: before not in offices(box), 20)
    assert not box.run("pgrep -u root -f '[-]I - {' || true").split()
    convert(box, f"{W}/small.txt", "pdf")
    box.run(f"rm {W}/huge.csv")
    assert box.run(f"ls -A {W} | grep '^[.]' || true") == ""
    assert len(box.run("ls -d /var/tmp/boxkeep-documents-*").split()) == 1, "the profile alone"


def test_many_at_once_are_all_converted(box: Sandbox) -> None:
    paths = [put(box, f"many/{number}.txt", f"{papers.MARK} {number}\n") for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda path: convert(box, path, "pdf"), paths))
    assert len({one["path"] for one in made}) == 8
    for number in range(8):
        assert box.run(f"pdftotext {W}/many/{number}.pdf - | head -1").strip() == f"{papers.MARK} {number}"
    assert len(offices(box)) == 1


def test_no_macro_runs_and_nothing_that_is_linked_is_fetched(box: Sandbox) -> None:
    box.run("rm -f /tmp/told /tmp/ran")
    listening = box.background(f"exec python3 -c '{LISTENER}'")
    eventually("it to listen", lambda: box.exec("curl -s http://127.0.0.1:8099/hello")["exitCode"] == 0, 20)
    url = "http://127.0.0.1:8099"
    evil = {
        "macro.odt": papers.with_a_macro('Shell("/usr/bin/touch", 0, "/tmp/ran", True)'),
        "links.odt": papers.with_links(url),
        "links.html": f'<html><body>{papers.MARK}<img src="{url}/i.png"><link rel=stylesheet href="{url}/s.css">'
        f'<iframe src="{url}/f.html"></iframe></body></html>',
        "links.svg": f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="9" '
        f'height="9"><image xlink:href="{url}/v.png" width="9" height="9"/></svg>',
        "calls.csv": f'{papers.MARK}\n"=WEBSERVICE(""{url}/w"")"\n',
    }
    for name, data in evil.items():
        if name == "links.svg":  # LibreOffice reads no drawing of which a part is missing
            assert refused(box, put(box, name, data), "pdf")[2] == "DOCUMENT_DAMAGED"
        else:
            convert(box, put(box, name, data), "pdf")
    assert box.run("cat /tmp/told").split() == ["/hello"]
    assert box.exec("test -e /tmp/ran")["exitCode"] == 1
    box.post("/processes/signal", processId=listening, signal="SIGKILL")


def test_without_the_capability_there_are_no_documents_and_nothing_of_them(api: Api, isolation: str) -> None:
    with fresh(api, runtime="base", isolation=isolation) as plain:
        path = put(plain, "a.txt", papers.TEXT)
        status, sentence, _ = refused(plain, path, "pdf")
        assert status == 409
        assert "capabilities.documents.libreofficeHeadless" in sentence
        assert plain.exec("ls /usr/lib/libreoffice")["exitCode"] != 0


def test_packages_are_installed_in_an_image_of_layers(box: Sandbox) -> None:
    box.run("apt-get update -qq && apt-get install -y -qq --no-install-recommends ed && ed --version", timeout=240_000)
    assert "ii" in box.run("dpkg-query -W -f '${db:Status-Abbrev}' libreoffice-writer-nogui")
    assert box.run("dpkg --audit") == ""


def test_a_warm_libreoffice_keeps_nobody_awake_and_is_there_after_a_pause(api: Api, isolation: str) -> None:
    lifecycle = {"idlePauseMs": 1500}
    with fresh(api, runtime="base", isolation=isolation, capabilities=DOCUMENTS, lifecycle=lifecycle) as made:
        path = put(made, "a.txt", papers.TEXT)
        convert(made, path, "pdf")
        api.wait_status(made.id, "paused", within_s=60)
        assert made.resume()["status"] == "ready"
        convert(made, path, "odt")


def test_a_fork_has_the_image_of_its_checkpoint(api: Api, isolation: str) -> None:
    wish = {"runtime": "base", "isolation": isolation, "ephemeral": False}
    with fresh(api, **wish, capabilities=DOCUMENTS) as first, fresh(api, **wish) as plain:
        path = put(first, "a.txt", papers.TEXT)
        kept = first.post("/checkpoints")["id"]
        with fresh(api, fromCheckpoint=kept, capabilities=DOCUMENTS) as fork:
            convert(fork, path, "pdf")
            assert fork.pause()["status"] == "paused"
            assert fork.resume()["status"] == "ready"
            convert(fork, path, "odt")
        other = plain.post("/checkpoints")["id"]
        answer = api.ask("POST", "", json={"fromCheckpoint": other, "capabilities": DOCUMENTS})
        assert answer.status_code == 400
        assert "without documents" in answer.json()["error"]
        for checkpoint in (kept, other):
            api.call("DELETE", "/checkpoints", params={"checkpointId": checkpoint})


@pytest.mark.parametrize("image", ["base-opencode", "bun-documents-opencode"])
def test_opencode_runs_in_an_image_that_has_it(office: Service, isolation: str, image: str) -> None:
    office.stop("serve")  # it would release a machine that it does not know
    try:
        assert asyncio.run(said_in(office, image, isolation, "opencode --version")).startswith("1.18.34")
    finally:
        office.start("serve")
        office.wait_ready()


async def said_in(office: Service, image: str, isolation: str, line: str) -> str:
    """What a shell line says in a machine of an image."""
    sandbox, guests = new_id(), GuestPool()
    node = NodeClient(office.root / "run" / office.instance / "node.sock")
    wish = {"sandbox": sandbox, "epoch": 1, "image": image, "isolation": isolation}
    try:
        claim = await node.place(ClaimWish.model_validate({**wish, "notAfter": 1 << 50, "hostname": "box"}))
        address = GuestAddress(claim.address, claim.port, claim.machine, claim.epoch, bytes.fromhex(claim.secret))
        request = {
            "op": "process.start",
            "id": new_id(),
            "command": line,
            "user": "root",
            "answer": "exit",
            "tail": 999,
        }
        async with guests.download(address, request) as download:
            return b"".join([bytes(frame.payload) async for frame in download if frame.payload]).decode()
    finally:
        await node.release(Key(sandbox, 1))
        await guests.close()
        await node.close()
