"""The guest's bundle: built from a Debian tree, the same for the same input, running where nothing else is."""

import asyncio
import json
import os
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from boxkeep_server.guestwire import GuestAddress, GuestPool
from boxkeep_server.node.bundle import Bundle, BundleError, build_bundle, python_of
from tests.guests import GUEST, process_id
from tests.instances import free_port

pytest_plugins = ["tests.guest_fixtures"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    target = tmp_path_factory.mktemp("bundles")
    yield build_bundle(target, GUEST)
    shutil.rmtree(target)


def test_the_same_input_gives_the_same_bundle(bundle: Bundle) -> None:
    before = bundle.path.stat().st_mtime_ns
    again = build_bundle(bundle.path.parent, GUEST)
    assert again == bundle
    assert again.path.stat().st_mtime_ns == before
    assert [path.name for path in bundle.path.parent.iterdir()] == [bundle.digest]


def test_another_guest_gives_another_bundle(bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(GUEST.parent, tmp_path / "guest", ignore=shutil.ignore_patterns("__pycache__"))
    copy = tmp_path / "guest" / "boxkeep_guest"
    (copy / "added.py").write_text('"""One more module."""\n')
    assert build_bundle(tmp_path / "bundles", copy).digest != bundle.digest


def test_everything_is_roots_and_read_only(bundle: Bundle) -> None:
    for path in (bundle.path, *bundle.path.rglob("*")):
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == (0, 0)
        assert not status.st_mode & 0o222
        assert stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)


def test_it_is_small_and_compiled(bundle: Bundle) -> None:
    files = [path for path in bundle.path.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 40_000_000
    sources = [path for path in files if path.suffix == ".py"]
    assert len(sources) == len([path for path in files if path.suffix == ".pyc"])


@pytest.mark.parametrize(
    ("link", "found"), [("python3.11", True), ("python3.13", True), ("python3.9", False), ("../../etc/shadow", False)]
)
def test_the_python_is_the_trees_own_if_it_is_new_enough(tmp_path: Path, link: str, found: bool) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/python3").symlink_to(link)
    if found:
        assert python_of(tmp_path) == link
    else:
        with pytest.raises(BundleError, match=r"is not a Python 3\.11 or newer"):
            python_of(tmp_path)


def test_a_tree_without_an_interpreter_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    with pytest.raises(BundleError):
        build_bundle(tmp_path / "bundles", GUEST, tmp_path / "tree")
    assert list((tmp_path / "bundles").iterdir()) == []


async def test_the_guest_runs_in_a_root_that_holds_nothing_else(
    bundle: Bundle,
    tmp_path: Path,
    pool: GuestPool,
) -> None:
    root, port = tmp_path / "root", free_port()
    shutil.copytree(bundle.path, root / "boxkeep")
    for name in ("proc", "dev", "log", "workspace"):
        (root / name).mkdir()
    os.mknod(root / "dev" / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    boot = {"machine": "m" * 32, "secret": "5a" * 32, "listen": ["127.0.0.1", port], "log": "/log"}
    (root / "boot.json").write_text(json.dumps(boot))
    script = f"mount -t proc proc {root}/proc && exec chroot {root} " + " ".join(bundle.command("/boxkeep"))
    guest = await asyncio.create_subprocess_exec(
        "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", f"{script} /boot.json"
    )
    try:
        _await_port(port)
        address = GuestAddress("127.0.0.1", port, "m" * 32, 0, b"\x5a" * 32)
        python = bundle.command("/boxkeep")[:6]
        code = "import os; print(os.getppid(), os.listdir('/proc/1/fd') and 'dumpable')"
        request = {"op": "process.start", "id": process_id(), "command": python[0], "answer": "exit", "tail": 1000}
        request |= {"args": [*python[1:], "-I", "-S", "-c", code], "cwd": "/"}
        async with pool.download(address, request) as download:
            frames = [frame async for frame in download]
            assert download.answer["process"]["exitCode"] == 0, frames
        assert frames[0].payload.startswith(b"1 ")
        await _survives_every_signal_from_inside(pool, address, python)
    finally:
        guest.kill()
        await guest.wait()


async def _survives_every_signal_from_inside(pool: GuestPool, address: GuestAddress, python: list[str]) -> None:
    code = "import os\nfor n in range(1, 65):\n    try: os.kill(1, n)\n    except OSError: pass"
    request = {"op": "process.start", "id": process_id(), "command": python[0], "answer": "exit", "tail": 1000}
    request |= {"args": [*python[1:], "-I", "-S", "-c", code], "cwd": "/"}
    async with pool.download(address, request) as download:
        assert download.answer["process"]["exitCode"] == 0
        async for _ in download:
            pass
    assert (await pool.call(address, {"op": "info"}))["processes"] == 0


def _await_port(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            assert time.monotonic() < deadline, "the guest does not listen"
            time.sleep(0.01)
        else:
            return
