"""Connections within the machine that are being opened: gVisor restores none such, and nothing beside it either."""

import asyncio
import os
import re

_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_TABLE_MOST = 16 << 20
_PATIENCE_SECONDS = 1.0
_POLL_SECONDS = 0.02
_HALF_OPEN = re.compile(
    rb"^ *\d+: (?:[0-9A-F]*7F|0{24}01000000):[0-9A-F]{4} [0-9A-F]+:[0-9A-F]{4} 0[23] ", re.MULTILINE
)
"""From an address of loopback, and SYN_SENT or SYN_RECV. Addresses are hexadecimal, in words of the processor's order:
the first byte of an IPv4 one comes last."""


async def over() -> bool:
    """Wait until none is being opened over loopback, for a second at most; whether that has come about. One stays so
    while a program takes none of the connections that wait for it, and more are opened than it lets wait."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _PATIENCE_SECONDS
    while any(_HALF_OPEN.search(_read(table)) for table in _TABLES):
        if loop.time() >= until:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True


def _read(table: str) -> bytes:
    """What a table says, which root within may have put anything in the place of."""
    try:
        with os.fdopen(os.open(table, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return file.read(_TABLE_MOST) or b""
    except OSError:
        return b""
