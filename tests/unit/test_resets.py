import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxkeep_server.node import nft, segments
from boxkeep_server.node.conntrack import Connection, listed

CONNECTION = Connection(socket.inet_aton("10.203.0.14"), 40_000, socket.inet_aton("203.0.113.10"), 443)
SYN_SENT, ESTABLISHED, TIME_WAIT, CLOSE = 1, 3, 7, 8


def attribute(kind: int, content: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(content), kind) + content + bytes(-len(content) % 4)


def told(connection: Connection, state: int, protocol: int = socket.IPPROTO_TCP) -> bytes:
    """A connection as the kernel tells of it in a listing."""
    address, port, peer, peer_port = connection
    ends = attribute(0x8000 | 1, attribute(1, address) + attribute(2, peer))
    ports = (
        attribute(1, bytes([protocol])) + attribute(2, port.to_bytes(2, "big")) + attribute(3, peer_port.to_bytes(2))
    )
    body = attribute(0x8000 | 1, ends + attribute(0x8000 | 2, ports))
    body += attribute(3, bytes(4)) + attribute(0x8000 | 4, attribute(0x8000 | 1, attribute(1, bytes([state]))))
    return message(0x100, struct.pack("=BBH", socket.AF_INET, 0, 0) + body)


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 1, 0) + body


def checksum_holds(packet: bytes) -> bool:
    carried = packet[12:20] + struct.pack("!HH", socket.IPPROTO_TCP, len(packet) - 20) + packet[20:]
    total = sum(struct.unpack(f"!{len(carried) // 2}H", carried))
    return (total & 0xFFFF) + (total >> 16) == 0xFFFF


def sent(
    number: int, flags: int, connection: Connection = CONNECTION, fragment: int = 0, options: bytes = b""
) -> bytes:
    """A packet from the one who opened the connection."""
    address, port, peer, peer_port = connection
    tcp = struct.pack("!HHIIBBHHH", port, peer_port, number, 1, 5 << 4, flags, 1024, 0, 0)
    words = 5 + len(options) // 4
    return struct.pack("!BBHHHBBH4s4s", 4 << 4 | words, 0, 40, 0, fragment, 64, 6, 0, address, peer) + options + tcp


def test_what_is_not_over_is_listed() -> None:
    other = CONNECTION._replace(port=40_001)
    over = b"".join(told(CONNECTION._replace(port=1), state) for state in (TIME_WAIT, CLOSE))
    datagram = told(CONNECTION, ESTABLISHED) + over + told(other, SYN_SENT)
    datagram += told(CONNECTION, ESTABLISHED, socket.IPPROTO_UDP)
    assert listed(datagram) == ([CONNECTION, other], True)
    assert listed(told(CONNECTION, ESTABLISHED) + message(3, bytes(4))) == ([CONNECTION], False)
    assert listed(b"") == ([], True)


def test_a_refused_listing_says_why() -> None:
    with pytest.raises(PermissionError):
        listed(message(2, struct.pack("=i", -1)))


@given(number=st.integers(0, 2**32 - 1), port=st.integers(1, 65_535))
def test_segments_are_whole_and_of_their_connection(number: int, port: int) -> None:
    connection = CONNECTION._replace(port=port)
    question, reset = segments.question(connection), segments.reset(connection, number)
    assert checksum_holds(question)
    assert checksum_holds(reset)
    assert segments.seen(reset) == (connection, number, True)
    asks = segments.seen(question)
    assert asks is not None
    assert asks.connection == Connection(connection.peer, connection.peer_port, connection.address, connection.port)


@given(st.integers(0, 2**32 - 1))
def test_the_peer_waits_for_what_did_not_reach_it(number: int) -> None:
    assert segments.seen(sent(number, 0x10)) == (CONNECTION, number, False)
    assert segments.seen(sent(number, 0x18, options=bytes(8))) == (CONNECTION, number, False)
    assert segments.seen(sent(number, 0x12)) == (CONNECTION, (number + 1) % 2**32, False)
    assert segments.seen(sent(number, 0x14)) == (CONNECTION, number, True)


def test_what_is_not_a_whole_segment_is_nothing() -> None:
    whole = sent(1, 0x10)
    assert all(segments.seen(whole[:length]) is None for length in range(len(whole)))
    assert segments.seen(sent(1, 0x10, fragment=3)) is None
    assert segments.seen(whole[:9] + bytes([socket.IPPROTO_UDP]) + whole[10:]) is None
    assert segments.seen(bytes([6 << 4]) + whole[1:]) is None
    assert segments.seen(bytes([4 << 4 | 2]) + whole[1:]) is None


@given(st.binary(max_size=120))
def test_no_bytes_are_too_odd_to_be_looked_at(packet: bytes) -> None:
    segments.seen(packet)
    segments.seen(b"\x45" + packet)


def test_a_place_that_is_taken_away_is_cut_off_no_more() -> None:
    assert nft.readmitted("b1") in nft.unplaced("b1", "10.203.0.14")
    assert "cut" in nft.OF_SANDBOXES
