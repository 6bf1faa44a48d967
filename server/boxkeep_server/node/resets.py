"""Resets the connections that a machine has opened to the outside, at both ends, from the router between them."""

import contextlib
import ctypes
import select
import socket
import struct
import time
from collections.abc import Collection
from typing import Final

from boxkeep_server.node import segments
from boxkeep_server.node.conntrack import Connection

_IPV4: Final = 0x0800
_AT_ONCE: Final = 32
_CAUGHT_BYTES: Final = 120
"""The longest headers of IPv4 and TCP."""
_BUFFER_BYTES: Final = 4 << 20
_SO_RCVBUFFORCE: Final = 33
_SO_ATTACH_FILTER: Final = 26


def reset(link: str, connections: Collection[Connection], within_s: float) -> set[Connection]:
    """Have the machine behind `link` send something on each of its connections, and reset the peer by that; answers
    those on which it has sent nothing in time.

    To be called in the router's namespace, while its rules reset whatever the machine sends: only they and the two
    sides know the numbers that a reset has to carry, so the machine is asked, and each answer resets its own end in the
    kernel and the other end here. What it sends beside that costs nothing but time, of which there is `within_s`; no
    packet goes anywhere but to it and once to the peer of each connection.

    Raises:
        OSError: the host does not let us.
    """
    if not connections:
        return set()
    deadline = time.monotonic() + within_s
    waiting, unasked = set(connections), list(connections)
    with _catching(link, unasked[0].address) as caught, _sending() as out:
        while waiting and (left := deadline - time.monotonic()) > 0:
            for connection in unasked[:_AT_ONCE]:
                _send(out, segments.question(connection), connection.address)
            del unasked[:_AT_ONCE]
            ready, _, _ = select.select([caught], [], [], 0 if unasked else left)
            if ready:
                _answer(caught, out, waiting)
    return waiting


def _answer(caught: socket.socket, out: socket.socket, waiting: set[Connection]) -> None:
    """Reset the peers of what was caught so far, no more at a time than may have been asked for."""
    for _ in range(2 * _AT_ONCE):
        try:
            seen = segments.seen(caught.recv(_CAUGHT_BYTES))
        except BlockingIOError:
            return
        if seen is not None and seen.connection in waiting:
            waiting.remove(seen.connection)
            if not seen.resets:
                _send(out, segments.reset(seen.connection, seen.number), seen.connection.peer)


def _send(out: socket.socket, packet: bytes, to: bytes) -> None:
    with contextlib.suppress(OSError):  # what is not sent is not answered
        out.sendto(packet, (socket.inet_ntoa(to), 0))


def _sending() -> socket.socket:
    out = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW)
    out.setblocking(False)
    return out


def _catching(link: str, address: bytes) -> socket.socket:
    """A socket that gets the headers of what an address sends by TCP over a link, before any rule judges it."""
    caught = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 0)
    try:
        program = _filter(address)
        code = ctypes.create_string_buffer(program)
        caught.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
        )
        caught.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        caught.setblocking(False)
        caught.bind((link, _IPV4))
    except BaseException:
        caught.close()
        raise
    return caught


def _filter(address: bytes) -> bytes:
    """Classic BPF: the first bytes of IPv4 packets from `address` that carry TCP, and nothing of others."""
    load_byte, load_word, equal, give = 0x30, 0x20, 0x15, 0x06
    program = (
        (load_byte, 0, 0, 9),
        (equal, 0, 3, socket.IPPROTO_TCP),
        (load_word, 0, 0, 12),
        (equal, 0, 1, int.from_bytes(address, "big")),
        (give, 0, 0, _CAUGHT_BYTES),
        (give, 0, 0, 0),
    )
    return b"".join(struct.pack("=HBBI", *step) for step in program)
