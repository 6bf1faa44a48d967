"""Streams of messages: whole and as they were, or refused."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxkeep_server.node.secretstream import MOST, StreamBroken, opened, sealed

KEY = bytes(range(32))
MESSAGES = (b"first", b"", b"second" * 1000, bytes(70_000))


async def _each(chunks: Sequence[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def written(messages: Sequence[bytes], key: bytes = KEY) -> list[bytes]:
    async def run() -> list[bytes]:
        return [chunk async for chunk in sealed(key, _each(messages))]

    return asyncio.run(run())


def read(chunks: Sequence[bytes], key: bytes = KEY) -> list[bytes]:
    async def run() -> list[bytes]:
        return [message async for message in opened(key, _each(chunks))]

    return asyncio.run(run())


WHOLE = b"".join(written(MESSAGES))


@settings(max_examples=30)
@given(messages=st.lists(st.binary(max_size=5000), max_size=5), cut=st.integers(1, 999))
def test_what_was_sealed_is_read_in_whatever_chunks_it_comes(messages: list[bytes], cut: int) -> None:
    stream = b"".join(written(messages))
    assert read([stream[at : at + cut] for at in range(0, len(stream), cut)]) == messages


def test_the_longest_message_passes_and_what_cannot_be_pressed_grows_little() -> None:
    dice = bytes(hash((1, number)) & 0xFF for number in range(MOST))
    stream = written([dice])
    assert read(stream) == [dice]
    assert sum(map(len, stream)) < MOST + 4096


@settings(max_examples=60)
@given(at=st.integers(0, len(WHOLE) - 1), bit=st.integers(0, 7))
def test_no_bit_of_it_may_be_changed(at: int, bit: int) -> None:
    changed = bytearray(WHOLE)
    changed[at] ^= 1 << bit
    with pytest.raises(StreamBroken):
        read([bytes(changed)])


@settings(max_examples=60)
@given(st.integers(0, len(WHOLE) - 1))
def test_it_may_end_nowhere_but_at_its_end(length: int) -> None:
    with pytest.raises(StreamBroken):
        read([WHOLE[:length]])


def test_messages_have_their_place() -> None:
    head, first, *others = written(MESSAGES)
    assert read([head, first, *others]) == list(MESSAGES)
    for wrong in ([head, *others], [head, first, first, *others], [head, others[0], first, *others[1:]]):
        with pytest.raises(StreamBroken):
            read(wrong)
    with pytest.raises(StreamBroken, match="behind its end"):
        read([WHOLE, b"x"])
    with pytest.raises(StreamBroken):
        read([head, *written(MESSAGES)[1:]])


def test_another_key_reads_nothing() -> None:
    with pytest.raises(StreamBroken):
        read([WHOLE], b"k" * 32)


def test_the_same_is_never_sealed_to_the_same_bytes_twice() -> None:
    assert written(MESSAGES) != written(MESSAGES)


def test_a_length_that_nobody_sends_is_not_waited_for() -> None:
    head = written(())[0]
    with pytest.raises(StreamBroken, match="too long"):
        read([head, b"\xff\xff\xff\xff"])
