"""TCP segments as bytes, with the IPv4 header before them: those that end a connection, and what is read of others."""

import socket
import struct
from typing import Final, NamedTuple

from boxkeep_server.node.conntrack import Connection

_IP: Final = struct.Struct("!BBHHHBBH4s4s")
_TCP: Final = struct.Struct("!HHIIBBHHH")
_CHECKSUM_AT: Final = 16
_VERSION_AND_WORDS: Final = 0x45
_TTL: Final = 64
_WORDS: Final = 5 << 4
_SYN: Final = 0x02
_RST: Final = 0x04
_NUMBERS: Final = 1 << 32
_FRAGMENT_BITS: Final = 0x1FFF


class Seen(NamedTuple):
    """A segment that an address has sent: on which connection, the number that a peer waits for whom it did not reach,
    and whether it is a reset itself."""

    connection: Connection
    number: int
    resets: bool


def question(connection: Connection) -> bytes:
    """A segment from the peer that the one who opened the connection answers at once, whatever state it is in.

    It asks for a connection that is there already, which is answered by an acknowledgement that names both sides' next
    numbers (RFC 5961, 4); who still waits for the first answer takes it for a simultaneous opening.
    """
    address, port, peer, peer_port = connection
    return _segment(peer, peer_port, address, port, number=0, flags=_SYN)


def reset(connection: Connection, number: int) -> bytes:
    """The segment by which the one who opened the connection would abort it, `number` being what the peer waits for."""
    address, port, peer, peer_port = connection
    return _segment(address, port, peer, peer_port, number=number, flags=_RST)


def seen(packet: bytes) -> Seen | None:
    """What an IPv4 packet says, of which the end may be missing; None when it is nothing of TCP's."""
    if len(packet) < _IP.size or packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_TCP:
        return None
    at = (packet[0] & 0xF) * 4
    *_, fragment, _, _, _, address, peer = _IP.unpack_from(packet)
    if fragment & _FRAGMENT_BITS or at < _IP.size or len(packet) < at + _TCP.size:
        return None
    port, peer_port, number, _, _, flags, *_ = _TCP.unpack_from(packet, at)
    # A first segment has reached the peer before, if it is there, and has used up a number.
    awaited = (number + bool(flags & _SYN)) % _NUMBERS
    return Seen(Connection(address, port, peer, peer_port), awaited, bool(flags & _RST))


def _segment(source: bytes, port: int, to: bytes, to_port: int, *, number: int, flags: int) -> bytes:
    """The kernel fills in the IPv4 header's own checksum."""
    tcp = _TCP.pack(port, to_port, number, 0, _WORDS, flags, 0, 0, 0)
    checksum = _checksum(source + to + struct.pack("!HH", socket.IPPROTO_TCP, len(tcp)) + tcp)
    tcp = tcp[:_CHECKSUM_AT] + struct.pack("!H", checksum) + tcp[_CHECKSUM_AT + 2 :]
    header = _IP.pack(_VERSION_AND_WORDS, 0, _IP.size + len(tcp), 0, 0, _TTL, socket.IPPROTO_TCP, 0, source, to)
    return header + tcp


def _checksum(data: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
