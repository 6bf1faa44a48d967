"""What the kernel remembers of the connections of a sandbox: listed, and forgotten when the sandbox is gone."""

import socket
import struct
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Final, NamedTuple

_NETLINK_NETFILTER: Final = 12
_REQUEST: Final = 0x1 | 0x4
"""NLM_F_REQUEST and NLM_F_ACK."""
_DUMP: Final = 0x1 | 0x300
"""NLM_F_REQUEST and NLM_F_DUMP."""
_GET: Final = 1 << 8 | 1
"""IPCTNL_MSG_CT_GET of NFNL_SUBSYS_CTNETLINK."""
_DELETE: Final = 1 << 8 | 2
"""IPCTNL_MSG_CT_DELETE: without a tuple, every connection that the attributes match."""
_NEW: Final = 1 << 8
"""IPCTNL_MSG_CT_NEW: how a dump tells of each connection."""
_ERROR: Final = 2
_DONE: Final = 3
_HEADER_BYTES: Final = 16
_BODY_AT: Final = _HEADER_BYTES + 4
_KIND_BITS: Final = 0x3FFF
_TUPLE, _TUPLE_ADDRESSES, _TUPLE_PORTS = 1, 1, 2
_SOURCE, _DESTINATION = 1, 2
_PROTOCOL, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_PROTOCOL_INFO, _TCP_INFO, _TCP_STATE = 4, 1, 1
_MARK: Final = 8
_MARK_MASK: Final = 21
_OVER: Final = (0, 7, 8)
"""TCP_CONNTRACK_NONE, TIME_WAIT and CLOSE: nobody waits for anything on such a connection."""
_ACK_TIMEOUT_S: Final = 10
_DATAGRAM_BYTES: Final = 1 << 16


class Connection(NamedTuple):
    """A TCP connection that `address` has opened to `peer`; addresses are their four bytes."""

    address: bytes
    port: int
    peer: bytes
    peer_port: int


def opened_by(address: IPv4Address, within_s: float) -> list[Connection]:
    """The TCP connections that a sandbox's address has opened, and that are not over; those of the calling thread's
    network namespace. What cannot be listed in time is left out.

    Raises:
        OSError: the kernel refused.
    """
    deadline = time.monotonic() + within_s
    found: list[Connection] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as kernel:
        kernel.send(request(IPv4Network(address), listing=True))
        while (left := deadline - time.monotonic()) > 0:
            kernel.settimeout(left)
            try:
                datagram = kernel.recv(_DATAGRAM_BYTES)
            except TimeoutError:
                break
            told, more = listed(datagram)
            found += [one for one in told if one.address == address.packed]
            if not more:
                break
    return found


def listed(datagram: bytes) -> tuple[list[Connection], bool]:
    """The TCP connections that one datagram of a listing tells of and that are not over, and whether more come.

    Raises:
        OSError: the datagram says so.
    """
    found: list[Connection] = []
    at = 0
    while at + _HEADER_BYTES <= len(datagram):
        length, kind = struct.unpack_from("=IH", datagram, at)
        if kind == _DONE:
            return found, False
        if kind == _ERROR:
            raise OSError(-struct.unpack_from("=i", datagram, at + _HEADER_BYTES)[0], "connections cannot be listed")
        if kind == _NEW and (connection := _connection(datagram[at + _BODY_AT : at + length])) is not None:
            found.append(connection)
        at += max(_HEADER_BYTES, length + 3 & ~3)
    return found, True


def _connection(body: bytes) -> Connection | None:
    about = dict(_attributes(body))
    ends = dict(_attributes(about.get(_TUPLE, b"")))
    addresses, ports = (dict(_attributes(ends.get(part, b""))) for part in (_TUPLE_ADDRESSES, _TUPLE_PORTS))
    state = dict(_attributes(dict(_attributes(about.get(_PROTOCOL_INFO, b""))).get(_TCP_INFO, b"")))
    if ports.get(_PROTOCOL) != bytes([socket.IPPROTO_TCP]) or state.get(_TCP_STATE, b"\0")[0] in _OVER:
        return None
    if not {_SOURCE, _DESTINATION} <= addresses.keys():
        return None  # not of IPv4
    port, peer_port = (int.from_bytes(ports[one], "big") for one in (_SOURCE_PORT, _DESTINATION_PORT))
    return Connection(addresses[_SOURCE], port, addresses[_DESTINATION], peer_port)


def _attributes(raw: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(raw):
        length, kind = struct.unpack_from("=HH", raw, at)
        yield kind & _KIND_BITS, raw[at + 4 : at + length]
        at += max(4, length + 3 & ~3)


def forget(network: IPv4Network) -> None:
    """Forget, in the calling thread's network namespace, the connections marked with an address of `network`.

    A runtime that is killed sends no word to the other side, and an established connection without one stays in the
    kernel's table for five days; a table that is full takes everybody's network away.

    Raises:
        OSError: the kernel refused.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as kernel:
        kernel.settimeout(_ACK_TIMEOUT_S)
        kernel.send(request(network))
        error = struct.unpack_from("=i", kernel.recv(4096), _HEADER_BYTES)[0]
    if error:
        raise OSError(-error, f"connections of {network} could not be forgotten")


def request(network: IPv4Network, *, listing: bool = False) -> bytes:
    """The netlink message that has connections forgotten, or listed. A mark and its mask are always in it: without them
    it would mean every connection."""
    attributes = _attribute(_MARK, _mark(int(network.network_address))) + _attribute(
        _MARK_MASK, _mark(int(network.netmask))
    )
    body = struct.pack("=BBH", socket.AF_INET, 0, 0) + attributes
    kind, flags = (_GET, _DUMP) if listing else (_DELETE, _REQUEST)
    return struct.pack("=IHHII", _HEADER_BYTES + len(body), kind, flags, 1, 0) + body


def _mark(address: int) -> int:
    """An address as the rules put it into a mark: its bytes, read as a number of this machine."""
    return int.from_bytes(address.to_bytes(4, "big"), sys.byteorder)


def _attribute(kind: int, value: int) -> bytes:
    return struct.pack("=HH", 8, kind) + struct.pack(">I", value)
