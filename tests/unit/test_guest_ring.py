"""Where output lies on disk: held to a plain model with every byte in memory."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxkeep_guest.output import Output
from boxkeep_guest.ring import Budget, Layout


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(0, 30), st.integers(1, 20))
def test_the_head_stays_and_the_ring_keeps_the_latest(lengths: list[int], head: int, ring: int) -> None:
    layout, disk, whole = Layout(Budget(head), ring), bytearray(1000), bytearray()
    for length in lengths:
        data = bytes((len(whole) + at) % 251 for at in range(length))
        for position, begin, end in layout.place(length):
            disk[position : position + end - begin] = data[begin:end]
        whole += data
    kept, at = {}, 0
    while at < len(whole):
        begin, position, length = layout.find(at, 7)
        if not length:
            break
        kept.update({begin + i: disk[position + i] for i in range(length)})
        at = begin + length
    expected = set(range(min(head, len(whole)))) | set(range(max(0, len(whole) - ring), len(whole)))
    if len(whole) <= head + ring:
        expected = set(range(len(whole)))
    assert kept == {at: whole[at] for at in expected}
    missing = len(whole) - len(expected)
    dropped = layout.dropped
    assert (dropped[1] - dropped[0] if dropped else 0) == missing


@given(st.integers(0, 100), st.lists(st.integers(0, 30), max_size=20))
def test_heads_never_take_more_than_their_budget(budget: int, wanted: list[int]) -> None:
    shared = Budget(budget)
    assert sum(shared.take(one) for one in wanted) == min(budget, sum(wanted))


def test_output_past_its_bounds_reads_as_head_then_tail(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "stdout"), Layout(Budget(100), 50), kept=10)
    data = bytes(range(250))
    for at in range(0, 250, 25):
        output.store(data[at : at + 25])
        output.commit(data[at : at + 25], 25)
    assert output.layout.dropped == (100, 200)
    assert output.from_file(0, 1000) == (0, data[:100])
    assert output.from_file(90, 1000) == (90, data[90:100])
    assert output.from_file(120, 1000) == (200, data[200:])
    assert output.from_memory(245, 5) == data[245:]
    assert (tmp_path / "stdout").stat().st_size == 150
    output.close()


def test_a_disk_that_takes_nothing_counts_as_dropped_and_memory_still_has_the_end(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "missing" / "too" / "stdout"), Layout(Budget(100), 50))
    output.store(b"lost")
    output.commit(b"lost", 4)
    assert output.layout.dropped == (0, 4)
    assert output.from_memory(0, 10) == b"lost"
    output.close()


def test_something_else_in_the_place_of_a_log_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "stdout")
    output = Output(str(tmp_path / "stdout"), Layout.ended(10, None, 0))
    with pytest.raises(OSError, match="not a regular file"):
        output.from_file(0, 10)
    (tmp_path / "stderr").symlink_to("/etc/passwd")
    output = Output(str(tmp_path / "stderr"), Layout.ended(10, None, 0))
    with pytest.raises(OSError):  # noqa: PT011 - ELOOP, in the system's words
        output.from_file(0, 10)
