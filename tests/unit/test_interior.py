import os
from pathlib import Path

import pytest

from boxkeep_server.node.interior import furnish, make_directories, write_file


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "outside"
    path.mkdir()
    return path


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    path = tmp_path / "upper"
    path.mkdir()
    return path


def test_a_symlink_on_the_way_is_replaced_and_not_followed(upper: Path, outside: Path) -> None:
    (upper / "a").symlink_to(outside)
    make_directories(upper, ("a/b",))
    assert (upper / "a" / "b").is_dir()
    assert not (upper / "a").is_symlink()
    assert list(outside.iterdir()) == []


def test_a_file_is_written_beside_what_was_there_and_not_through_it(upper: Path, outside: Path) -> None:
    (outside / "passwd").write_text("precious")
    (upper / "etc").mkdir()
    (upper / "etc" / "hosts").symlink_to(outside / "passwd")
    write_file(upper, "etc/hosts", b"new")
    assert (outside / "passwd").read_text() == "precious"
    assert (upper / "etc" / "hosts").read_text() == "new"
    assert not (upper / "etc" / "hosts").is_symlink()


def test_pipes_directories_and_hard_links_in_the_way_give_way(upper: Path, outside: Path) -> None:
    (outside / "kept").write_text("precious")
    (upper / "etc" / "hosts" / "deep").mkdir(parents=True)
    os.mkfifo(upper / "etc" / "hostname")
    os.link(outside / "kept", upper / "etc" / "resolv.conf")
    furnish(upper, "m" * 32, "box", "10.0.0.1", fresh=True)
    assert (upper / "etc" / "hostname").read_text() == "box\n"
    assert "box" in (upper / "etc" / "hosts").read_text()
    assert (outside / "kept").read_text() == "precious"


def test_a_disk_that_was_used_keeps_its_names_and_gets_the_new_resolver(upper: Path) -> None:
    furnish(upper, "m" * 32, "first", "10.0.0.1", fresh=True)
    first = {path.name: path.read_text() for path in (upper / "etc").iterdir()}
    furnish(upper, "n" * 32, "second", "10.0.0.5", fresh=False)
    second = {path.name: path.read_text() for path in (upper / "etc").iterdir()}
    assert "nameserver 10.0.0.5\n" in second.pop("resolv.conf")
    first.pop("resolv.conf")
    assert first == second


def test_what_is_there_already_keeps_its_mode(upper: Path) -> None:
    (upper / "workspace").mkdir(mode=0o700)
    furnish(upper, "m" * 32, "box", "10.0.0.1", fresh=True)
    assert (upper / "workspace").stat().st_mode & 0o777 == 0o700
    assert (upper / "etc").stat().st_mode & 0o777 == 0o755
