"""Words, keys, lines and addresses of the agent's tools: what they make of whatever they get."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxkeep_tools.acts import address
from boxkeep_tools.faults import ToolFailed
from boxkeep_tools.keys import key
from boxkeep_tools.lines import Lines
from boxkeep_tools.words import clean, marked, quoted


@given(st.text())
def test_cleaned_words_are_one_line_of_visible_characters(words: str) -> None:
    seen = clean(words)
    assert len(seen.splitlines()) <= 1
    assert all(one.isprintable() for one in seen if one not in "\u200c\u200d")
    assert clean(seen) == seen


@given(st.text(), st.integers(1, 50))
def test_quoted_words_cannot_end_their_quotation(words: str, most: int) -> None:
    said = quoted(words, most)
    assert (said[0], said[-1]) == ("«", "»")
    assert "«" not in said[1:]
    assert "»" not in said[:-1]
    assert len(said) <= most + 3


def test_what_is_marked_is_between_lines_that_name_the_mark() -> None:
    _, *lines = marked(["one", "two"], "c0ffee").splitlines()
    assert lines == ["--- page c0ffee ---", "one", "two", "--- end of page c0ffee ---"]


@given(st.lists(st.binary(max_size=30)), st.integers(1, 20))
def test_lines_are_the_same_however_they_arrive(pieces: list[bytes], most: int) -> None:
    data = b"".join(pieces)
    expected = [line if len(line) <= most else None for line in data.split(b"\n")[:-1]]
    lines = Lines(most)
    assert [line for piece in pieces for line in lines.feed(piece)] == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Enter", ("keyDown", "Enter", "Enter", 13, 0, "\r")),
        ("Return", ("keyDown", "Enter", "Enter", 13, 0, "\r")),
        ("a", ("keyDown", "a", "KeyA", 65, 0, "a")),
        ("Shift+a", ("keyDown", "A", "KeyA", 65, 8, "A")),
        ("7", ("keyDown", "7", "Digit7", 55, 0, "7")),
        ("é", ("keyDown", "é", "", 0, 0, "é")),
        ("+", ("keyDown", "+", "", 0, 0, "+")),
        ("Space", ("keyDown", " ", "Space", 32, 0, " ")),
        ("Control+A", ("rawKeyDown", "a", "KeyA", 65, 2, None)),
        ("Control+Shift+ArrowLeft", ("rawKeyDown", "ArrowLeft", "ArrowLeft", 37, 10, None)),
        ("Ctrl+Control+c", ("rawKeyDown", "c", "KeyC", 67, 2, None)),
        ("F12", ("rawKeyDown", "F12", "F12", 123, 0, None)),
    ],
)
def test_a_key_is_pressed_as_a_keyboard_would(name: str, expected: tuple[object, ...]) -> None:
    down = key(name).down
    fields = ("type", "key", "code", "windowsVirtualKeyCode", "modifiers", "text")
    assert tuple(down.get(field) for field in fields) == expected
    assert key(name).up["type"] == "keyUp"


@given(st.text())
def test_any_name_is_a_key_or_refused_in_a_sentence(name: str) -> None:
    assert re.match(r"keyDown$|rawKeyDown$|There is no key ", pressed(name))


def pressed(name: str) -> str:
    """The kind of event that a key of this name makes, or why there is none."""
    try:
        return str(key(name).down["type"])
    except ToolFailed as fault:
        return str(fault)


@pytest.mark.parametrize(
    ("words", "url"),
    [
        ("example.com", "https://example.com"),
        ("  https://example.com/a b ", "https://example.com/a b"),
        ("localhost:3000/x", "http://localhost:3000/x"),
        ("127.0.0.1:80", "http://127.0.0.1:80"),
        ("[::1]:80", "http://[::1]:80"),
        ("example.com:8443/x", "https://example.com:8443/x"),
        ("about:blank", "about:blank"),
        ("data:text/html,x", "data:text/html,x"),
    ],
)
def test_an_address_may_be_typed_as_a_person_would(words: str, url: str) -> None:
    assert address(words) == url
