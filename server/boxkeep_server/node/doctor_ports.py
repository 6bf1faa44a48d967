"""What doctor says of the ports that an installation is to listen on: whether they are free, or who has them."""

import contextlib
import errno
import ipaddress
import os
import socket
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boxkeep_server.node.findings import Finding

_LISTENS: Final = "0A"
"""The state TCP_LISTEN in the kernel's tables."""
_TABLES: Final = ("tcp", "tcp6")
_MAIN: Final = "main"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Ports:
    """Where an installation is to listen."""

    listen: str = "127.0.0.1"
    api: int = 7070
    previews: int = 7072


DEFAULT: Final = Ports()


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that listens; `ours` where it is a service of this installation."""

    pid: int
    program: str
    ours: bool


def examine(ports: Ports, instance: str) -> list[Finding]:
    """Look at the ports of the API and of the previews."""
    return [
        judge_port(subject, port, setting, fault(ports.listen, port), holders(ports.listen, port, instance))
        for subject, port, setting in (
            ("API port", ports.api, "control.port"),
            ("preview port", ports.previews, "control.preview_port"),
        )
    ]


def judge_port(subject: str, port: int, setting: str, fault: int | None, holders: Sequence[Holder]) -> Finding:
    """`fault` is the errno with which listening on the port fails."""
    if fault is None:
        return Finding(subject, "ok", f"{port}, free")
    if fault == errno.EADDRINUSE and holders and all(one.ours for one in holders):
        return Finding(subject, "ok", f"{port}, this installation's own")
    if fault == errno.EADDRINUSE:
        others = ", ".join(f"{one.program} (process {one.pid})" for one in holders if not one.ours)
        mend = f"Stop that, or choose another: `make up PORT=…` the first time, {setting} in the settings after."
        return Finding(subject, "fatal", f"{port} is taken by {others or 'a process that is not seen here'}", mend)
    return Finding(subject, "fatal", f"{port}: {os.strerror(fault)}", f"Change {setting}, or control.listen.")


def fault(listen: str, port: int) -> int | None:
    """The errno with which listening fails, tried for a moment; None where it does not."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(listen, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror:
        return errno.EADDRNOTAVAIL
    with socket.socket(family, kind, protocol) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(address)
        except OSError as error:
            return error.errno
    return None


def holders(listen: str, port: int, instance: str, proc: Path = Path("/proc")) -> list[Holder]:
    """The processes that listen on a port where we would; none where the kernel shows none."""
    tables = {name: (proc / "net" / name).read_text() for name in _TABLES if (proc / "net" / name).exists()}
    inodes = {f"socket:[{inode}]" for table in tables.values() for inode in listening(table, listen, port)}
    found = (entry for entry in proc.iterdir() if entry.name.isdigit() and inodes and _has_any(entry, inodes))
    return [_holder(entry, instance) for entry in sorted(found, key=lambda entry: int(entry.name))]


def listening(table: str, listen: str, port: int) -> Iterator[str]:
    """From /proc/net/tcp or tcp6: the inodes of the sockets that keep others from that port of an address."""
    wanted = _address(listen)
    for line in table.splitlines()[1:]:
        fields = line.split()
        where, _, number = fields[1].partition(":")
        if fields[3] == _LISTENS and int(number, 16) == port and _meet(_of_kernel(where), wanted):
            yield fields[9]


def is_ours(words: Sequence[str], environment: Mapping[str, str], instance: str) -> bool:
    """Whether a process with this command line and environment is a service of this installation."""
    program = any(word.endswith("/boxkeep") or word == "boxkeep.cli" for word in words)
    return program and _instance(environment) == instance


def _instance(environment: Mapping[str, str]) -> str:
    if named := environment.get("BOXKEEP_INSTANCE"):
        return named
    with contextlib.suppress(OSError, tomllib.TOMLDecodeError):
        return str(tomllib.loads(Path(environment.get("BOXKEEP_CONFIG", "")).read_text()).get("instance", _MAIN))
    return _MAIN


def _holder(entry: Path, instance: str) -> Holder:
    environment = dict(line.split("=", 1) for line in _read(entry / "environ") if "=" in line)
    ours = is_ours(_read(entry / "cmdline"), environment, instance)
    return Holder(int(entry.name), " ".join(_read(entry / "comm")).strip(), ours)


def _read(file: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return [word.decode(errors="replace") for word in file.read_bytes().split(b"\0") if word]
    return []


def _has_any(entry: Path, links: set[str]) -> bool:
    with contextlib.suppress(OSError):
        for descriptor in (entry / "fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(descriptor) in links:  # noqa: PTH115 - not a path
                    return True
    return False


def _address(listen: str) -> Address:
    try:
        return ipaddress.ip_address(listen)
    except ValueError:
        return ipaddress.ip_address(socket.getaddrinfo(listen, None)[0][4][0])


def _of_kernel(where: str) -> Address:
    """An address as the kernel writes it: words of four bytes, each in the host's order."""
    raw = bytes.fromhex(where)
    address = ipaddress.ip_address(b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4)))
    return address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address


def _meet(one: Address, other: Address) -> bool:
    return one.is_unspecified or other.is_unspecified or one == other
