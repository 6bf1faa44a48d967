"""Which connections within a machine are being opened, from tables that anybody within may have put there."""

import os
import time
from pathlib import Path

import pytest

from boxkeep_guest import handshakes

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
LISTENS = "   9: 0100007F:53D7 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0       10 1 0\n"
IS_OPEN = LISTENS.replace("0A", "01")
IS_OPENED = LISTENS.replace("0A", "02")
GOES_OUT = "  13: 0A00A00A:F3ED 00000000:0000 02 00000000:00000000 00:00000000 00000000     0        0       14 1 0\n"
REST = "00000000:00000000 00:00000000 00000000     0        0       14 1 0\n"
V6 = f"  13: {'0' * 24}01000000:F3ED {'0' * 32}:0000 02 {REST}"
MAPPED = f"  13: {'0' * 16}FFFF00000100007F:F3ED {'0' * 32}:0000 03 {REST}"


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "tcp"
    monkeypatch.setattr(handshakes, "_TABLES", (str(found), str(tmp_path / "tcp6")))
    return found


@pytest.mark.parametrize("lines", ["", HEAD, HEAD + LISTENS + IS_OPEN, HEAD + GOES_OUT, "\n\0 13: : 02\n" * 100])
async def test_what_is_open_or_leads_outside_is_not_waited_for(table: Path, lines: str) -> None:
    table.write_text(lines)
    assert await handshakes.over()


@pytest.mark.parametrize("line", [IS_OPENED, V6, MAPPED])
async def test_what_stays_half_open_is_said_after_a_second(table: Path, line: str) -> None:
    table.write_text(HEAD + LISTENS + line)
    begun = time.monotonic()
    assert not await handshakes.over()
    assert 1 <= time.monotonic() - begun < 5


async def test_no_table_a_directory_a_pipe_and_one_without_end_hold_nobody_up(table: Path) -> None:
    assert await handshakes.over()
    table.mkdir()
    assert await handshakes.over()
    table.rmdir()
    os.mkfifo(table)
    assert await handshakes.over()
    table.unlink()
    table.symlink_to("/dev/zero")
    assert await handshakes.over()
