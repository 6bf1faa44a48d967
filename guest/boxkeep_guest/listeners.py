"""What listens inside: the sockets in the kernel's tables, and the processes that hold them as far as we may look."""

import os
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

MOST = 1000
LOOKED_AT_MOST = 200_000
"""Descriptors of processes that are looked at: a process may have made very many, to no purpose but this."""
_TABLES = (("net/tcp", socket.AF_INET), ("net/tcp6", socket.AF_INET6))
_LISTENING = "0A"


class Listener(NamedTuple):
    """A socket that takes connections. `inode` is its number in the kernel."""

    address: str
    port: int
    inode: str


def listening(proc: str = "/proc") -> list[Listener]:
    """The listening sockets by port and address, at most a thousand."""
    found: set[Listener] = set()
    for name, family in _TABLES:
        try:
            with open(f"{proc}/{name}", encoding="ascii", errors="replace") as table:  # noqa: PTH123
                next(table, None)
                found.update(filter(None, (_listener(line, family) for line in table)))
        except OSError:
            continue  # a kernel without IPv6 has no such table
    return sorted(found, key=lambda one: (one.port, one.address))[:MOST]


def _listener(line: str, family: int) -> Listener | None:
    columns = line.split()
    if len(columns) < 10 or columns[3] != _LISTENING:
        return None
    address, _, port = columns[1].partition(":")
    return Listener(_address(address, family), int(port, 16), columns[9])


def _address(digits: str, family: int) -> str:
    """An address from the table, whose words of four bytes are in the machine's own order."""
    words = (int(digits[at : at + 8], 16) for at in range(0, len(digits), 8))
    return socket.inet_ntop(family, b"".join(word.to_bytes(4, "little") for word in words))


def described(found: list[Listener], proc: str = "/proc") -> list[dict[str, Any]]:
    """Listeners as the wire has them, each with the process that holds it where that can be seen."""
    holders = _holders({one.inode for one in found}, proc)
    return [
        {"address": one.address, "port": one.port, "pid": pid, "process": None if pid is None else _name(pid, proc)}
        for one in found
        for pid in (holders.get(one.inode),)
    ]


def _holders(inodes: set[str], proc: str) -> dict[str, int]:
    """The process that holds each of these sockets; of several the one that was first."""
    holders: dict[str, int] = {}
    looked_at = 0
    for pid in sorted(int(name) for name in os.listdir(proc) if name.isdecimal()):  # noqa: PTH208
        for inode in _sockets(f"{proc}/{pid}/fd"):
            if inode in inodes:
                holders.setdefault(inode, pid)
            looked_at += 1
        if len(holders) == len(inodes) or looked_at >= LOOKED_AT_MOST:
            break
    return holders


def _sockets(directory: str) -> Iterator[str]:
    try:
        names = os.listdir(directory)  # noqa: PTH208
    except OSError:
        return  # it has ended, or is not ours to look into
    for name in names:
        try:
            target = os.readlink(f"{directory}/{name}")  # noqa: PTH115
        except OSError:
            continue
        yield target.removeprefix("socket:[").removesuffix("]")


def _name(pid: int, proc: str) -> str | None:
    try:
        with open(f"{proc}/{pid}/comm", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            return file.read(64).strip() or None
    except OSError:
        return None
