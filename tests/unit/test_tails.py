import json
import os
from pathlib import Path

from boxkeep_server.node.tails import Tail, read_tails

ID = "p" * 32


def unfinished(log: Path, name: str = ID) -> Path:
    directory = log / name
    directory.mkdir()
    (directory / "record.json").write_text(json.dumps({"state": "running"}))
    return directory


def test_streams_that_are_not_there_read_as_empty(tmp_path: Path) -> None:
    (unfinished(tmp_path) / "stdout").write_bytes(b"said")
    assert read_tails(tmp_path) == {ID: Tail(b"said", b"")}


def test_a_command_whose_record_was_not_written_yet_has_a_tail(tmp_path: Path) -> None:
    (tmp_path / ID).mkdir()
    (tmp_path / ID / "stdout").write_bytes(b"said")
    assert read_tails(tmp_path) == {ID: Tail(b"said", b"")}


def test_no_log_means_no_tails(tmp_path: Path) -> None:
    assert read_tails(tmp_path / "absent") == {}


def test_nothing_is_read_through_symlinks(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "record.json").write_text(json.dumps({"state": "running"}))
    (secret / "stdout").write_bytes(b"secret")
    log = tmp_path / "log"
    log.mkdir()
    (log / ID).symlink_to(secret)
    directory = unfinished(log, "q" * 32)
    (directory / "stdout").symlink_to(secret / "stdout")
    (directory / "stderr").symlink_to("/dev/zero")
    assert read_tails(log) == {"q" * 32: Tail(b"", b"")}
    (tmp_path / "link").symlink_to(log)
    assert read_tails(tmp_path / "link") == {}


def test_pipes_and_directories_do_not_hold_it_up(tmp_path: Path) -> None:
    directory = unfinished(tmp_path)
    os.mkfifo(directory / "stdout")
    (directory / "stderr").mkdir()
    assert read_tails(tmp_path) == {ID: Tail(b"", b"")}


def test_records_of_rubbish_are_passed_over(tmp_path: Path) -> None:
    for number, text in enumerate(("[" * 100_000, "null", '"running"', "\0")):
        directory = tmp_path / (str(number) * 32)
        directory.mkdir()
        (directory / "record.json").write_text(text)
    assert read_tails(tmp_path) == {}


def test_no_more_than_256_are_told(tmp_path: Path) -> None:
    for number in range(300):
        unfinished(tmp_path, f"{number:032d}")
    assert len(read_tails(tmp_path)) == 256
