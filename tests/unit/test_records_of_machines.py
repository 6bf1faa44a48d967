from dataclasses import replace
from pathlib import Path

import pytest

from boxkeep_server.node.records import Machine, Records

MACHINE = Machine(
    id="m" * 32,
    born_as="m" * 32,
    isolation="runc",
    image="base",
    digest="d",
    index=1,
    address="10.0.0.2",
    port=7071,
    secret="s" * 64,
    boot_id="b",
    netns="/run/netns/x",
)


def test_what_is_written_is_read_and_private(tmp_path: Path) -> None:
    records = Records(tmp_path / "machines")
    records.write(MACHINE)
    records.write(MACHINE.running_as(12, 34))
    assert records.read(MACHINE.id) == replace(MACHINE, pid=12, started=34)
    assert records.machines() == [MACHINE.id]
    assert (tmp_path / "machines" / f"{MACHINE.id}.json").stat().st_mode & 0o777 == 0o600
    records.remove(MACHINE.id)
    records.remove(MACHINE.id)
    assert records.machines() == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": "m"}'])
def test_a_record_that_makes_no_sense_is_found_and_not_read(tmp_path: Path, text: str) -> None:
    records = Records(tmp_path)
    (tmp_path / f"{MACHINE.id}.json").write_text(text)
    assert records.read(MACHINE.id) is None
    assert records.machines() == [MACHINE.id]


def test_a_write_cut_short_is_still_found(tmp_path: Path) -> None:
    (tmp_path / f"{MACHINE.id}.new").write_text("{")
    assert Records(tmp_path).machines() == [MACHINE.id]


def test_the_secret_is_not_shown() -> None:
    assert MACHINE.secret not in repr(MACHINE)
