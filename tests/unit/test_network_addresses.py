import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxkeep_server.node.addresses import REST_S, Addresses, NoAddress, Plan

MACHINE = "m" * 32


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@given(st.lists(st.one_of(st.just("take"), st.integers(0, 7), st.floats(0, 2 * REST_S)), max_size=60))
def test_no_number_is_lent_twice_nor_before_it_has_rested(steps: list[str | int | float]) -> None:
    clock = Clock()
    addresses = Addresses(6, clock)
    taken: set[int] = set()
    left: dict[int, float] = {}
    for step in steps:
        if step == "take":
            free = [one for one in range(6) if one not in taken and clock.now_s >= left.get(one, 0.0)]
            if free:
                index = addresses.take(MACHINE)
                assert index in free
                taken.add(index)
            else:
                with pytest.raises(NoAddress):
                    addresses.take(MACHINE)
        elif isinstance(step, float):
            clock.now_s += step
        else:
            addresses.rest(step)
            if step in taken:
                taken.discard(step)
                left[step] = clock.now_s + REST_S
        assert addresses.taken() == taken


def test_a_claimed_number_is_not_lent() -> None:
    addresses = Addresses(2, Clock())
    addresses.claim(0)
    assert addresses.take(MACHINE) == 1
    with pytest.raises(NoAddress, match="All 2 networks are in use or rest"):
        addresses.take(MACHINE)


def test_numbers_rest_on_through_a_restart(tmp_path: Path) -> None:
    clock, kept = Clock(), tmp_path / "resting.json"
    first = Addresses(2, clock, kept=kept)
    first.rest(first.take(MACHINE))
    again = Addresses(2, clock, kept=kept)
    assert again.take(MACHINE) == 1
    with pytest.raises(NoAddress):
        again.take(MACHINE)
    clock.now_s += REST_S
    assert Addresses(2, clock, taken=[1], kept=kept).take(MACHINE) == 0


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', "null", '{"1": null}'])
def test_a_broken_file_of_who_rests_tells_of_nobody(tmp_path: Path, content: str) -> None:
    (tmp_path / "resting.json").write_text(content)
    assert Addresses(2, Clock(), kept=tmp_path / "resting.json").take(MACHINE) == 0


@given(st.integers(8, 28))
def test_places_lie_in_the_subnet_and_none_is_the_uplinks(prefix: int) -> None:
    plan = Plan(ipaddress.IPv4Network(f"10.0.0.0/{prefix}"))
    last = plan.place(plan.size - 1)
    assert ipaddress.IPv4Address(last.address) in plan.subnet
    assert ipaddress.IPv4Address(plan.uplink.address) in plan.subnet
    assert int(ipaddress.IPv4Address(plan.uplink.gateway)) == int(ipaddress.IPv4Address(last.gateway)) + 4
    with pytest.raises(ValueError, match="has no network"):
        plan.place(plan.size)
