"""The numbered history of events, within bounds of number and memory."""

import json

from boxkeep_guest import events
from boxkeep_guest.events import Events


def test_events_are_numbered_and_read_in_order() -> None:
    history = Events()
    for n in range(3):
        history.add({"event": "x", "n": n})
    seen, seq = [], 0
    while (event := history.after(seq)) is not None:
        seq = event[0]
        seen.append((seq, json.loads(event[1])["n"]))
    assert seen == [(1, 0), (2, 1), (3, 2)]
    assert history.after(99) is None


def test_the_oldest_are_forgotten_by_number_and_by_size() -> None:
    history = Events()
    for _ in range(events.EVENTS_MOST + 5):
        history.add({})
    first = history.after(0)
    assert first is not None
    assert first[0] == 6
    big = Events()
    for _ in range(20):
        big.add({"text": "x" * 1_000_000})
    first = big.after(0)
    assert first is not None
    assert 20 - first[0] < 8
