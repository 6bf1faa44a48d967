"""A viewer's words to a display: whatever the pieces they come in, input passes only from who drives."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxkeep_server.web.viewer.rfb import NoViewer, Words

OPENING = b"RFB 003.008\n\x01\x01"
UPDATE = b"\x03\x01" + bytes(8)
KEY = b"\x04\x01\x00\x00\x00\x00\x00a"
POINTER = b"\x05\x01\x00\x10\x00\x10"
CLIPBOARD = b"\x06\x00\x00\x00\x00\x00\x00\x05hello"
FORMS = b"\x06\x00\x00\x00" + (-8).to_bytes(4, "big", signed=True) + bytes(8)
QEMU_KEY = b"\xff\x00" + bytes(10)
SIZE = b"\xfb\x00\x03\x20\x02\x58\x01\x00" + bytes(16)
OFF = b"\xfa\x00\x01\x02"
FENCE = b"\xf8\x00\x00\x00\x00\x00\x00\x01\x03abc"
CONTINUOUS = b"\x96\x01" + bytes(8)
FORMAT = bytes(20)
PASSIVE = (UPDATE, FENCE, CONTINUOUS, FORMAT)
INPUT = (KEY, POINTER, CLIPBOARD, FORMS, QEMU_KEY)
NEVER = (SIZE, OFF)

messages = st.lists(st.sampled_from((*PASSIVE, *INPUT, *NEVER)), max_size=20)


def in_pieces(words: Words, data: bytes, cuts: list[int]) -> bytes:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return b"".join(words.passed(data[a:b]) for a, b in itertools.pairwise(places))


@given(messages, st.lists(st.integers(0, 10_000), max_size=30), st.booleans())
def test_input_passes_from_who_drives_and_all_else_from_everybody(
    said: list[bytes], cuts: list[int], drives: bool
) -> None:
    heard = in_pieces(Words(lambda: drives), OPENING + b"".join(said), cuts)
    let = (*PASSIVE, *INPUT) if drives else PASSIVE
    assert heard == OPENING + b"".join(one for one in said if one in let)


def test_each_part_of_the_opening_passes_as_soon_as_it_is_there() -> None:
    words = Words(lambda: False)
    assert [words.passed(part) for part in (b"RFB 003.", b"008\n", b"\x01", b"\x00")] == [
        b"",
        OPENING[:12],
        b"\x01",
        b"\x00",
    ]


def test_it_is_asked_at_each_message_who_drives() -> None:
    drives = [True]
    words = Words(lambda: drives[0])
    assert words.passed(OPENING + KEY) == OPENING + KEY
    drives[0] = False
    assert words.passed(KEY + UPDATE) == UPDATE


def test_a_longer_message_of_a_mouse_is_never_agreed_upon() -> None:
    encodings = [7, -316, 5]
    asked = b"\x02\x00\x00\x03" + b"".join(one.to_bytes(4, "big", signed=True) for one in encodings)
    heard = Words(lambda: False).passed(OPENING + asked)
    assert heard == OPENING + b"\x02\x00\x00\x02" + (7).to_bytes(4, "big") + (5).to_bytes(4, "big")


@pytest.mark.parametrize(
    "said",
    [
        b"RFB 003.003\n\x01\x01",
        b"RFB 003.008\n\x02\x01",
        b"GET / HTTP/1.1\r\n",
        OPENING + b"\x07",
        OPENING + b"\xff\x01",
        OPENING + b"\x06\x00\x00\x00\x7f\xff\xff\xff",
        OPENING + b"\x06\x00\x00\x00\x80\x00\x00\x00",
    ],
)
def test_who_is_no_viewer_is_turned_away(said: bytes) -> None:
    with pytest.raises(NoViewer):
        Words(lambda: True).passed(said)


@given(st.binary(max_size=200), st.booleans())
def test_whatever_comes_is_words_or_turned_away(said: bytes, drives: bool) -> None:
    words = Words(lambda: drives)
    try:
        words.passed(OPENING + said)
    except NoViewer:
        return
