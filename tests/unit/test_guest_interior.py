"""Files of the sandbox that the guest touches at a claim, whatever a tenant has made of them."""

import os
from pathlib import Path

import pytest

from boxkeep_guest.interior import image_environment, name_in_files, renamed

BORN = "127.0.0.1 localhost\n127.0.1.1 warm-1\n"


def etc(directory: Path, hostname: str, hosts: str) -> str:
    (directory / "hostname").write_text(hostname)
    (directory / "hosts").write_text(hosts)
    return str(directory)


def test_the_line_of_the_old_name_becomes_that_of_the_new(tmp_path: Path) -> None:
    name_in_files("sandbox-2", etc(tmp_path, "warm-1\n", BORN))
    assert (tmp_path / "hosts").read_text() == "127.0.0.1 localhost\n127.0.1.1 sandbox-2\n"
    assert (tmp_path / "hostname").read_text() == "sandbox-2\n"


def test_a_machine_that_has_its_name_keeps_what_its_user_wrote(tmp_path: Path) -> None:
    name_in_files("sandbox-2", etc(tmp_path, "sandbox-2\n", "10.0.0.1 mine\n"))
    assert (tmp_path / "hosts").read_text() == "10.0.0.1 mine\n"


def test_lines_of_others_stay_and_a_missing_line_is_added() -> None:
    assert renamed(b"1.2.3.4 db # warm-1", b"warm-1", b"new") == b"1.2.3.4 db # warm-1\n127.0.1.1 new\n"
    assert renamed(b"1.2.3.4 db new\n", b"warm-1", b"new") == b"1.2.3.4 db new\n"
    assert renamed(b"", b"", b"new") == b"127.0.1.1 new\n"


@pytest.mark.parametrize("kind", ["fifo", "symlink", "directory", "huge", "missing"])
def test_what_is_no_small_file_is_neither_waited_for_nor_followed(tmp_path: Path, kind: str) -> None:
    directory = etc(tmp_path, "warm-1\n", BORN)
    for name in ("hosts", "environment"):
        place = tmp_path / name
        place.unlink(missing_ok=True)
        if kind == "fifo":
            os.mkfifo(place)
        elif kind == "symlink":
            (tmp_path / "elsewhere").write_text("A=b\n")
            place.symlink_to("elsewhere")
        elif kind == "directory":
            place.mkdir()
        elif kind == "huge":
            place.write_bytes(b"A=b\n" * 100_000)
    name_in_files("sandbox-2", directory)
    assert image_environment(str(tmp_path / "environment")) == {}
    if kind == "symlink":
        assert (tmp_path / "elsewhere").read_text() == "A=b\n"


def test_the_images_environment_is_its_lines_of_name_and_value(tmp_path: Path) -> None:
    file = tmp_path / "environment"
    file.write_bytes(b"# said\nA=1\nB=x=y\n\nnothing\n=z\nC=\nD=a\0b\nE=\xff\n")
    assert image_environment(str(file)) == {"A": "1", "B": "x=y", "C": "", "E": "\udcff"}
