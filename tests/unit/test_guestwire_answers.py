"""What the host takes from a guest's answers, and what it refuses."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxkeep_server.guestwire import GuestAddress, GuestProtocolError, GuestRefused
from boxkeep_server.guestwire.address import answer_greeting, check_answer, check_proof, mac_of
from boxkeep_server.guestwire.answers import entries_of, entry_of, parse_process, process_of, processes_of
from boxkeep_server.guestwire.patience import answer_seconds, idle_seconds, repeatable

PROCESS: dict[str, Any] = {
    "id": "a" * 32, "state": "finished", "pid": 5, "command": "true", "args": None, "shell": True, "cwd": "/",
    "user": "root", "background": False, "pty": False, "startedAt": 1, "endedAt": 2, "durationMs": 1,
    "timeoutMs": None, "outcome": "exited", "exitCode": 0, "signal": None, "reason": None, "timedOut": False,
    "stdoutBytes": 0, "stderrBytes": 0, "droppedBytes": 0,
}  # fmt: skip
ENTRY = {"name": "a", "path": "/a", "type": "file", "size": 1, "mode": 0o644, "modifiedAt": 1, "uid": 0, "gid": 0}
ADDRESS = GuestAddress("127.0.0.1", 1, "m" * 32, 3, b"s" * 32)
ANYTHING = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)


def test_a_process_is_taken_as_the_wire_has_it() -> None:
    process = process_of({"process": PROCESS}, "a" * 32)
    assert (process.outcome, process.exit_code, process.args) == ("exited", 0, None)
    running = parse_process({**PROCESS, "state": "running", "outcome": None, "endedAt": None, "durationMs": None})
    assert running.outcome is None


@pytest.mark.parametrize(
    "change",
    [
        {"state": "odd"}, {"outcome": None}, {"outcome": "lost"}, {"pid": True}, {"pid": -1}, {"pid": 2**63},
        {"command": 5}, {"args": [5]}, {"id": "A" * 32}, {"id": "b" * 32}, {"exitCode": 256}, {"stdoutBytes": 1.5},
        {"durationMs": None}, {"reason": {}},
    ],
)  # fmt: skip
def test_a_process_that_is_not_as_the_wire_says_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(GuestProtocolError):
        parse_process({**PROCESS, **change}, "a" * 32)


@given(st.dictionaries(st.sampled_from(sorted(PROCESS)), ANYTHING))
def test_no_change_of_a_process_does_more_than_be_refused(change: dict[str, Any]) -> None:
    with suppress(GuestProtocolError):
        parse_process({**PROCESS, **change})


@given(st.dictionaries(st.sampled_from([*sorted(ENTRY), "pathBase64", "target", "targetBase64"]), ANYTHING))
def test_no_change_of_an_entry_does_more_than_be_refused(change: dict[str, Any]) -> None:
    with suppress(GuestProtocolError):
        entry_of({"entry": {**ENTRY, **change}})


def test_text_that_is_no_utf8_shows_the_replacement_character() -> None:
    process = parse_process({**PROCESS, "command": "a\udcffb", "args": ["\ud800"]})
    assert (process.command, process.args) == ("a\ufffdb", ("\ufffd",))
    process.command.encode()


def test_names_may_be_any_bytes() -> None:
    entry = entry_of(
        {"entry": {**{k: v for k, v in ENTRY.items() if k != "name"}, "nameBase64": "/w==", "target": "é"}}
    )
    assert (entry.name, entry.target) == (b"\xff", "é".encode())
    for wrong in (
        {"name": ""},
        {"path": "relative"},
        {"path": "/a\0"},
        {"name": None},
        {"nameBase64": "!", "name": None},
    ):
        with pytest.raises(GuestProtocolError):
            entry_of({"entry": {**ENTRY, **wrong}})


def test_lists_must_be_lists() -> None:
    assert processes_of({"processes": [PROCESS], "more": False})[0][0].id == "a" * 32
    for wrong in ({}, {"processes": {}, "more": True}, {"processes": [], "more": 1}, {"processes": [1], "more": True}):
        with pytest.raises(GuestProtocolError):
            processes_of(wrong)
    with pytest.raises(GuestProtocolError):
        entries_of({"entries": ["x"]})


@pytest.mark.parametrize(
    "error", [None, "x", {}, {"code": "made_up", "message": ""}, {"code": "busy"}, {"code": ["busy"]}]
)
def test_an_error_that_is_none_of_the_wires_is_a_breach(error: object) -> None:
    with pytest.raises(GuestProtocolError):
        check_answer({"error": error})


def test_an_error_of_the_wire_is_told_with_a_bounded_printable_sentence() -> None:
    with pytest.raises(GuestRefused) as refused:
        check_answer({"error": {"code": "busy", "message": "\x1b[31m\ud800" + "x" * 5000}})
    assert (refused.value.code, len(refused.value.message)) == ("busy", 1000)
    assert refused.value.message.startswith("\ufffd[31m\ufffdx")
    for wrong in ({}, {"ok": 1}, {"ok": False}):
        with pytest.raises(GuestProtocolError):
            check_answer(wrong)


def test_the_handshake_proves_both_sides() -> None:
    message, expected = answer_greeting({"wire": [1], "guest": "x", "nonce": "ab" * 32}, ADDRESS, "cd" * 32)
    assert message["mac"] == mac_of("host", ADDRESS, "ab" * 32, "cd" * 32)
    assert expected == mac_of("guest", ADDRESS, "ab" * 32, "cd" * 32)
    check_proof({"ok": True, "mac": expected}, expected)
    for wrong in ({"ok": True, "mac": "0" * 64}, {"ok": True}, {"mac": expected}, {"ok": True, "mac": "é"}):
        with pytest.raises(GuestProtocolError):
            check_proof(wrong, expected)
    for greeting in ({}, {"wire": [2], "nonce": "ab" * 32}, {"wire": [1], "nonce": "AB" * 32}, {"wire": 1}):
        with pytest.raises(GuestProtocolError):
            answer_greeting(greeting, ADDRESS, "cd" * 32)


def test_the_secret_is_not_shown() -> None:
    assert "ssss" not in repr(ADDRESS)


def test_patience_depends_on_what_was_asked() -> None:
    assert answer_seconds({"op": "ping"}) == 30
    assert answer_seconds({"op": "process.start", "answer": "exit", "timeoutMs": 5000}) == 35
    assert answer_seconds({"op": "process.start", "answer": "exit"}) is None
    assert idle_seconds({"op": "watch"}) == 30
    assert idle_seconds({"op": "process.output", "follow": True}) is None
    assert idle_seconds({"op": "file.read"}) == 60
    assert repeatable({"op": "process.start"})
    assert not repeatable({"op": "process.signal"})
