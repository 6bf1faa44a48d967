"""Parsers of what clients send: whatever it is, it is a value or a refusal with a sentence that can be printed."""

import json
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from boxkeep_server.model.cursors import cursor_of, read_cursor
from boxkeep_server.model.errors import BoxkeepError, Invalid, Unauthenticated
from boxkeep_server.web.app import OPERATIONS
from boxkeep_server.web.auth import key_of, token_of
from boxkeep_server.web.errors import RangeNotSatisfiable, body_of
from boxkeep_server.web.fields import Fields, check_fields, parse_query
from boxkeep_server.web.json_bodies import parse_object
from boxkeep_server.web.operations import AnyOperation
from boxkeep_server.web.ranges import part_of
from boxkeep_server.web.routes.terminals import resize_of
from boxkeep_server.web.tokens import Purpose, Tokens

QUICKLY = settings(max_examples=60)
THOROUGHLY = settings(max_examples=400)
WITH_BODY = [operation for operation in OPERATIONS if operation.takes_json]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def _refused(attempt: Callable[[], object], *kinds: type[BoxkeepError]) -> str | None:
    """The sentence with which it is refused; None where it is not. Every refusal can be sent."""
    try:
        attempt()
    except kinds as error:
        said: str = json.loads(body_of(error))["error"]
        assert said
        assert len(said) < 2000
        return said
    return None


def _names(kind: type[Fields]) -> list[str]:
    return [field.alias or name for name, field in kind.model_fields.items()]


@given(st.sampled_from(WITH_BODY), st.data())
@THOROUGHLY
def test_a_body_is_its_fields_or_refused(operation: AnyOperation, data: st.DataObject) -> None:
    fields = st.sampled_from(_names(operation.body)) | st.text(max_size=10)
    body = data.draw(st.dictionaries(fields, VALUES, max_size=5))
    _refused(lambda: check_fields(operation.body, body), Invalid)


@given(st.sampled_from(OPERATIONS), st.data())
@THOROUGHLY
def test_a_query_is_its_fields_or_refused(operation: AnyOperation, data: st.DataObject) -> None:
    known = st.sampled_from([name.encode() for name in _names(operation.query)] or [b"id"])
    pair = st.tuples(known | st.binary(max_size=6), st.binary(max_size=20))
    query = data.draw(st.lists(pair, max_size=5).map(lambda pairs: b"&".join(b"=".join(pair) for pair in pairs)))
    _refused(lambda: parse_query(operation.query, query), Invalid)


@given(st.binary(max_size=60))
@QUICKLY
def test_a_body_of_any_bytes_is_an_object_or_refused(body: bytes) -> None:
    _refused(lambda: parse_object(body), Invalid)
    _refused(lambda: parse_object(b'{"a":' + body + b"}"), Invalid)


@given(st.text(max_size=60), st.text(max_size=60))
@QUICKLY
def test_no_token_but_ours_opens_anything(first: str, second: str) -> None:
    tokens = Tokens(b"k" * 32, lambda: 1000)
    for forged in (first, f"{first}.{second}", token_of(f"token={first}".encode("utf-8", "replace"))):
        assert _refused(lambda: tokens.read(forged, Purpose.DOWNLOAD), Unauthenticated) is not None  # noqa: B023


def test_no_token_lives_longer_because_the_clock_was_set_back() -> None:
    now = [1_000_000]
    tokens = Tokens(b"k" * 32, lambda: now[0])
    good, expires_at = tokens.sign("o" * 32, "s" * 32, Purpose.DOWNLOAD, "k" * 32, "t:/path")
    now[0] -= 1
    assert _refused(lambda: tokens.read(good, Purpose.DOWNLOAD), Unauthenticated) is not None
    now[0] = expires_at
    assert _refused(lambda: tokens.read(good, Purpose.DOWNLOAD), Unauthenticated) is not None
    now[0] = expires_at - 1
    assert tokens.read(good, Purpose.DOWNLOAD).bound == "t:/path"


@given(st.integers(0, 200), st.characters(codec="ascii"))
@QUICKLY
def test_a_token_with_one_character_changed_is_none(at: int, other: str) -> None:
    tokens = Tokens(b"k" * 32, lambda: 1000)
    good, _ = tokens.sign("o" * 32, "s" * 32, Purpose.DOWNLOAD, "k" * 32, "t:/path")
    at %= len(good)
    forged = good[:at] + other + good[at + 1 :]
    if forged != good:
        assert _refused(lambda: tokens.read(forged, Purpose.DOWNLOAD), Unauthenticated) is not None
    assert tokens.read(good, Purpose.DOWNLOAD).bound == "t:/path"


@given(st.lists(st.binary(max_size=60), max_size=3))
@QUICKLY
def test_a_header_is_a_key_or_refused(values: list[bytes]) -> None:
    assert _refused(lambda: key_of([(b"authorization", value) for value in values]), Unauthenticated) is not None


@given(st.text(max_size=60))
@QUICKLY
def test_a_cursor_is_ours_or_refused(cursor: str) -> None:
    _refused(lambda: read_cursor(cursor), Invalid)


@given(st.integers(0, 1 << 48))
@QUICKLY
def test_a_cursor_is_read_as_it_was_made(at: int) -> None:
    assert read_cursor(cursor_of(at, "a" * 32)) == (at, "a" * 32)


@given(st.text("bytes=-,0123456789 ", max_size=20) | st.text(max_size=20), st.integers(0, 1 << 60))
@QUICKLY
def test_a_range_is_within_the_file_or_refused(header: str, size: int) -> None:
    found = []
    _refused(lambda: found.append(part_of(header, size)), RangeNotSatisfiable)
    for part in found:
        assert part is None or (part.offset >= 0 and part.length >= 1 and part.offset + part.length <= size)


@given(VALUES)
@QUICKLY
def test_only_a_whole_size_for_this_terminal_resizes(value: object) -> None:
    terminal = "a" * 32
    assert resize_of(json.dumps(value), terminal) is None
    for resize in (value, {"rows": value}, {"cols": 1, "rows": [value]}):
        message = {"terminalId": terminal, "resize": resize}
        assert resize_of(json.dumps(message), terminal) is None
    assert resize_of(json.dumps({"terminalId": terminal, "resize": {"rows": 1, "cols": 1000}}), terminal) is not None
