"""A peer outside of the host: an address behind it that sandboxes of the running service reach, and its listener."""

import contextlib
import ipaddress
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from boxkeep_server.node import attached, netns
from tests.services import Service

_DOCUMENTATION = ("203.0.113", "198.51.100", "192.0.2")


class Peer:
    """Holds what is opened to it, and notes how each of them ends: `EOF`, or the name of the error.

    What is opened to the address `silent` is never answered.
    """

    def __init__(self, address: str, silent: str, listening: socket.socket) -> None:
        self.address = address
        self.silent = silent
        self.open = 0
        self.ends: list[str] = []
        self._listening = listening
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self.open += 1
                threading.Thread(target=self._hold, args=(connection,), daemon=True).start()

    def _hold(self, connection: socket.socket) -> None:
        with connection:
            try:
                while connection.recv(1024):
                    pass
                self.ends.append("EOF")
            except OSError as error:
                self.ends.append(type(error).__name__)


@contextlib.contextmanager
def outside(service: Service, directory: Path) -> Iterator[Peer]:
    """A namespace behind the host, on addresses of documentation that are the instance's own."""
    host, there, address, silent = map(str, _addresses(service))
    path, link = directory / "outside", f"o{service.instance}"[:15]
    netns.make(path, lambda: None)
    try:
        netns.ip(
            f"link add {link} type veth peer name eth0 netns {path}",
            f"addr add {host}/31 dev {link}",
            f"link set {link} up",
        )
        inside = [
            "link set lo up",
            f"addr add {there}/31 dev eth0",
            f"addr add {address}/32 dev lo",
            "link set eth0 up",
            f"route add blackhole {silent}",
            f"route add default via {host}",
        ]
        netns.within(path, lambda: netns.ip(*inside))
        netns.ip(f"route add {address}/32 via {there}", f"route add {silent}/32 via {there}")
        with netns.within(path, lambda: socket.create_server((address, 80), backlog=128)) as listening:
            yield Peer(address, silent, listening)
            listening.shutdown(socket.SHUT_RDWR)
    finally:
        netns.remove(path)
        with contextlib.suppress(netns.CommandFailed):
            netns.ip(f"link del {link}")


def _addresses(service: Service) -> ipaddress.IPv4Network:
    """Four addresses that no other instance takes, of a network that the host is not in: sandboxes are refused those,
    and some hosts are in a network of documentation themselves."""
    number = int(service.subnet.split(".")[1]) & ~3
    own = [ipaddress.IPv4Network(f"{network}.{number}/30") for network in _DOCUMENTATION]
    listed = netns.run(["ip", "-j", "-4", "addr"]), netns.run(["ip", "-j", "-4", "route", "show", "table", "all"])
    taken = [ipaddress.IPv4Network(network) for network in attached.networks(*listed, uplink="")]
    return next(block for block in own if not any(map(block.overlaps, taken)))
