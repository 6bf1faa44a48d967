"""How many machines a node takes, and when it is short of memory."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxkeep_server.node.room import GIB, Memory, Pressure, largest, pressure, read_memory, reserve, slots


@pytest.mark.parametrize(
    ("total", "kept", "number"), [(4 * GIB, 2 * GIB, 5), (24 * GIB, int(3.6 * GIB), 54), (2 * GIB, 2 * GIB, 0)]
)
def test_slots_follow_from_memory_and_reserve(total: int, kept: int, number: int) -> None:
    assert reserve(total) == kept
    assert slots(total, None) == number


def test_the_operator_may_name_the_slots() -> None:
    assert slots(4 * GIB, 100) == 100
    assert slots(4 * GIB, 0) == 0


@pytest.mark.parametrize(
    ("available", "stalled", "machines", "expected"),
    [
        (40.0, 0.0, None, Pressure.CALM),
        (7.0, 0.0, None, Pressure.DRAIN),
        (4.0, 0.0, None, Pressure.REFUSE),
        (2.0, 0.0, None, Pressure.REFUSE),
        (2.0, 9.0, None, Pressure.END),
        (2.0, None, None, Pressure.END),
        (0.5, 0.0, None, Pressure.END),
        (40.0, 0.0, 50.0, Pressure.DRAIN),
        (40.0, 0.0, 52.0, Pressure.REFUSE),
        (40.0, 0.0, 54.0, Pressure.END),
    ],
)
def test_pressure_is_the_worse_of_host_and_machines(
    available: float, stalled: float | None, machines: float | None, expected: Pressure
) -> None:
    held = None if machines is None else int(machines * GIB)
    assert pressure(Memory(64 * GIB, int(available * GIB), stalled, held)) is expected


@given(st.integers(1, 1 << 42), st.floats(0, 1), st.floats(0, 1))
def test_less_available_memory_never_means_less_pressure(total: int, one: float, other: float) -> None:
    less, more = sorted((int(total * one), int(total * other)))
    assert pressure(Memory(total, less)) >= pressure(Memory(total, more))


def test_the_largest_is_chosen_and_none_from_none() -> None:
    assert largest({"a": 1, "b": 3, "c": 2}) == "b"
    assert largest({}) is None


def test_memory_is_read_with_and_without_psi(tmp_path: Path) -> None:
    meminfo, psi = tmp_path / "meminfo", tmp_path / "psi"
    meminfo.write_text("MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    600 kB\nHugePages_Total:       0\n")
    assert read_memory(meminfo, psi) == Memory(1024000, 614400, None)
    psi.write_text("some avg10=1.50 avg60=0.00 avg300=0.00 total=9\nfull avg10=0.20 avg60=0 avg300=0 total=1\n")
    assert read_memory(meminfo, psi).stalled == 1.5


def test_this_host_can_be_read() -> None:
    memory = read_memory()
    assert 0 < memory.available <= memory.total
