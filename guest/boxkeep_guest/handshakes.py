"""Connections within the machine that are being opened: gVisor restores none such, and nothing beside it either."""

import asyncio
from pathlib import Path

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_OPENING = ("02", "03")  # SYN_SENT, SYN_RECV
_LOOPBACK = "7F"
_LOOPBACK_6 = "00000000000000000000000001000000"
_PATIENCE_SECONDS = 1.0
_POLL_SECONDS = 0.02


async def over() -> bool:
    """Wait until none is being opened over loopback, for a second at most; whether that has come about. One stays so
    while a program takes none of the connections that wait for it, and more are opened than it lets wait."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _PATIENCE_SECONDS
    while any(_being_opened(table) for table in _TABLES):
        if loop.time() >= until:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True


def _being_opened(table: Path) -> bool:
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return False
    return any(line.split()[3] in _OPENING and _on_loopback(line.split()[1].partition(":")[0]) for line in lines)


def _on_loopback(address: str) -> bool:
    """Addresses are hexadecimal in words of the processor's order: the first byte of an IPv4 one comes last."""
    return address == _LOOPBACK_6 or address.endswith(_LOOPBACK)
