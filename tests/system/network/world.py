"""Around the host: `outside`, a namespace behind it that has public, private and metadata addresses at once."""

import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from boxkeep_server.model.ids import new_id
from boxkeep_server.model.node_api import NetworkWish
from boxkeep_server.node import netns
from boxkeep_server.node.network import Attachment, Network

PUBLIC = "203.0.113.10"
OTHER_PUBLIC = "203.0.113.11"
OPENED = "10.9.9.9"
INSIDE = ("10.1.2.3", "172.16.5.5", "192.168.7.7", "169.254.169.254", "100.100.100.200", "168.63.129.16", "100.64.1.1")
HOST = "198.51.100.1"
AT_ONCE_S = 1.0
SUBNET = "10.203.0.0/16"


def host_rules(commands: str) -> None:
    """Change the host's rules as an administrator would, by the program."""
    netns.run(["nft", "-f", "-"], commands)


class Listeners:
    """TCP listeners in a namespace that answer `hello` and count who came."""

    def __init__(self, path: Path | None, addresses: tuple[str, ...], port: int) -> None:
        self.accepted = 0
        self._sockets = [self._listen(path, address, port) for address in addresses]
        for one in self._sockets:
            threading.Thread(target=self._serve, args=(one,), daemon=True).start()

    def _listen(self, path: Path | None, address: str, port: int) -> socket.socket:
        def listen() -> socket.socket:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            return socket.create_server((address, port), family=family)

        return listen() if path is None else netns.within(path, listen)

    def _serve(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            self.accepted += 1
            with connection:
                connection.sendall(b"hello")

    def close(self) -> None:
        for one in self._sockets:
            one.shutdown(socket.SHUT_RDWR)
            one.close()


Box = tuple[str, int, Attachment]


async def boxed(network: Network, index: int, wish: NetworkWish | None = None) -> Box:
    machine = new_id()
    attachment = await network.attach(machine, index)
    if wish is not None:
        await network.set_egress(machine, index, wish)
    return machine, index, attachment


def inside(box: Box, work: Callable[[], Any]) -> Any:
    return netns.within(box[2].netns_path, work)


def dial(address: str, port: int = 80, source: str | None = None, within_s: float = 5) -> str:
    """What becomes of a connection: `hello`, or the name of the error; an assertion when it hangs."""
    began = time.monotonic()
    try:
        with socket.create_connection((address, port), within_s, (source, 0) if source else None) as connection:
            return connection.recv(5).decode()
    except TimeoutError:
        return "hangs"
    except OSError as error:
        assert time.monotonic() - began < AT_ONCE_S, f"{address} was not refused at once"
        return errno.errorcode[error.errno or 0]


def errno_of(work: Callable[[], Any]) -> str:
    """`done`, or the name of the error; `hangs` when its socket's own time is up."""
    try:
        work()
    except TimeoutError:
        return "hangs"
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def heard(listening: socket.socket) -> bytes:
    """What comes to a datagram or raw socket, nothing when half a second goes by."""
    listening.settimeout(0.5)
    try:
        return listening.recv(2048)
    except TimeoutError:
        return b""


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        os.sched_yield()


def rules(network: Network, name: str) -> str:
    return netns.within(network.router, lambda: netns.run(["nft", "list", "set", "inet", "boxkeep", name]))


@contextmanager
def neighbour(path: Path, network: str = "172.17.0") -> Iterator[Path]:
    """A container of this host, behind a masquerade as docker sets it."""
    netns.make(path, lambda: None)
    netns.ip(
        f"link add dk0 type veth peer name eth0 netns {path}", f"addr add {network}.1/16 dev dk0", "link set dk0 up"
    )
    netns.within(
        path,
        lambda: netns.ip(
            "link set lo up",
            f"addr add {network}.2/16 dev eth0",
            "link set eth0 up",
            f"route add default via {network}.1",
        ),
    )
    host_rules(
        "table ip dk {\n chain p {\n type nat hook postrouting priority srcnat;\n"
        f' ip saddr {network}.0/16 oifname != "dk0" masquerade\n }}\n}}\n'
    )
    try:
        yield path
    finally:
        netns.run(["nft", "delete", "table", "ip", "dk"])
        netns.remove(path)
