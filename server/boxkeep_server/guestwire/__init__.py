"""The host side of the guest wire: frames, handshake, pooled connections, calls."""

from boxkeep_server.guestwire.address import GuestAddress
from boxkeep_server.guestwire.errors import (
    GuestError,
    GuestProtocolError,
    GuestRefused,
    GuestTimeout,
    GuestUnreachable,
)
from boxkeep_server.guestwire.frames import DATA, END, ERR, JSON, Frame
from boxkeep_server.guestwire.pool import GuestPool
from boxkeep_server.guestwire.streams import Download, Duplex

__all__ = [
    "DATA",
    "END",
    "ERR",
    "JSON",
    "Download",
    "Duplex",
    "Frame",
    "GuestAddress",
    "GuestError",
    "GuestPool",
    "GuestProtocolError",
    "GuestRefused",
    "GuestTimeout",
    "GuestUnreachable",
]
