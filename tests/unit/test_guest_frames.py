"""The two codecs of the guest wire against each other, against every cut of the stream, and against rubbish."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxkeep_guest import frames as inside
from boxkeep_guest.errors import BadFrame
from boxkeep_server.guestwire import frames as host
from boxkeep_server.guestwire.errors import GuestProtocolError

PAYLOADS = st.one_of(
    st.tuples(st.sampled_from([host.DATA, host.ERR]), st.binary(min_size=1, max_size=300)),
    st.tuples(st.just(host.END), st.just(b"")),
    st.tuples(
        st.just(host.JSON),
        st.dictionaries(st.text(max_size=5), st.integers(), max_size=3).map(lambda value: json.dumps(value).encode()),
    ),
)


def cut(stream: bytes, sizes: list[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(stream[at : at + size])
        at += size
    return [*pieces, stream[at:]]


@given(st.lists(PAYLOADS, max_size=8), st.lists(st.integers(0, 50), max_size=20))
def test_what_one_side_encodes_the_other_decodes_however_it_is_cut(
    sent: list[tuple[int, bytes]], sizes: list[int]
) -> None:
    guest_decoder, host_decoder = inside.Decoder(), host.Decoder()
    stream = b"".join(host.encode(kind, payload) for kind, payload in sent)
    assert stream == b"".join(inside.encode(kind, payload) for kind, payload in sent)
    assert [frame for piece in cut(stream, sizes) for frame in guest_decoder.feed(piece)] == sent
    assert [tuple(frame) for piece in cut(stream, sizes) for frame in host_decoder.feed(piece)] == sent


@given(st.lists(st.binary(max_size=100), max_size=10))
def test_rubbish_is_refused_or_waits_but_nothing_else(pieces: list[bytes]) -> None:
    guest_decoder, host_decoder = inside.Decoder(), host.Decoder()
    try:
        for piece in pieces:
            for frame in host_decoder.feed(piece):
                if frame.kind == host.JSON:
                    frame.json()
    except GuestProtocolError:
        pass
    try:
        for piece in pieces:
            for kind, payload in guest_decoder.feed(piece):
                if kind == inside.JSON:
                    inside.decode_json(payload)
    except BadFrame:
        pass


@pytest.mark.parametrize(
    "header",
    [b"\0\0\0\0\0", b"\0\0\0\0\5", b"\0\4\0\1\2", b"\0\4\0\1\3", b"\0\0\0\1\4", b"\0\0\x40\1\1", b"\xff\xff\xff\xff\2"],
)
def test_a_bound_is_enforced_by_the_header_alone(header: bytes) -> None:
    with pytest.raises(GuestProtocolError):
        host.Decoder().feed(header)
    with pytest.raises(BadFrame):
        inside.Decoder().feed(header)


def test_after_the_handshake_json_may_have_its_full_length() -> None:
    payload = b'{"a":"' + b"x" * 1_000_000 + b'"}'
    decoder, other = host.Decoder(), inside.Decoder()
    decoder.json_most, other.json_most = host.JSON_MOST, inside.JSON_MOST
    assert decoder.feed(host.encode(host.JSON, payload))[0].payload == payload
    assert other.feed(host.encode(host.JSON, payload))[0][1] == payload


NESTED = st.recursive(
    st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=20,
)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


@given(NESTED, st.integers(0, 40))
def test_only_depth_decides_whether_json_is_taken(value: Any, wraps: int) -> None:
    message = {"odd": '}]"\\[{' * 20, "value": value}
    for _ in range(wraps):
        message = {"inner": [message]} if wraps % 2 else {"inner": message}
    payload = json.dumps(message, ensure_ascii=False).encode()
    deep = depth(message) > 32
    for parse, error in ((host.parse_object, GuestProtocolError), (inside.decode_json, BadFrame)):
        if deep:
            with pytest.raises(error):
                parse(payload)
        else:
            assert parse(payload) == message


@pytest.mark.parametrize(
    "payload",
    [b"[]", b"1", b"", b"{", b'{"a":1}x', b"\xff", b'{"a":"\xff"}', b"[" * 500_000, b'{"a":' * 200_000, b'{"a":NaN}'],
)
def test_what_is_not_one_object_is_refused(payload: bytes) -> None:
    with pytest.raises(GuestProtocolError):
        host.parse_object(payload)


@given(st.text(max_size=50))
def test_odd_text_survives_both_codecs(text: str) -> None:
    message = {"op": text}
    assert inside.decode_json(host.encode_json(message)[5:]) == message
    assert host.parse_object(inside.encode_json(message)[5:]) == message


def test_the_host_does_not_send_what_the_wire_forbids() -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        host.encode(host.DATA, b"x" * (host.DATA_MOST + 1))
