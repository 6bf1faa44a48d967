"""Forgets the connections of a sandbox that is gone, which the kernel would remember for days."""

import socket
import struct
import sys
from ipaddress import IPv4Network
from typing import Final

_NETLINK_NETFILTER: Final = 12
_REQUEST: Final = 0x1 | 0x4
"""NLM_F_REQUEST and NLM_F_ACK."""
_DELETE: Final = 1 << 8 | 2
"""IPCTNL_MSG_CT_DELETE of NFNL_SUBSYS_CTNETLINK: without a tuple, every connection that the attributes match."""
_MARK: Final = 8
_MARK_MASK: Final = 21
_ACK_TIMEOUT_S: Final = 10


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
        error = struct.unpack_from("=i", kernel.recv(4096), 16)[0]
    if error:
        raise OSError(-error, f"connections of {network} could not be forgotten")


def request(network: IPv4Network) -> bytes:
    """The netlink message. A mark and its mask are always in it: without them it would mean every connection."""
    attributes = _attribute(_MARK, _mark(int(network.network_address))) + _attribute(
        _MARK_MASK, _mark(int(network.netmask))
    )
    body = struct.pack("=BBH", socket.AF_INET, 0, 0) + attributes
    return struct.pack("=IHHII", 16 + len(body), _DELETE, _REQUEST, 1, 0) + body


def _mark(address: int) -> int:
    """An address as the rules put it into a mark: its bytes, read as a number of this machine."""
    return int.from_bytes(address.to_bytes(4, "big"), sys.byteorder)


def _attribute(kind: int, value: int) -> bytes:
    return struct.pack("=HH", 8, kind) + struct.pack(">I", value)
