"""Which addresses a webhook may be sent to: public ones, and networks that the operator opened."""

import ipaddress
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
MOST_OF_ROUTES: Final = 1 << 20

# Spelled out and not left to `is_global`, whose meaning changed between releases of Python.
_REFUSED_V4: Final = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; a cloud's metadata service lives in it too
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's wire server, at a public address
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
_GLOBAL_V6: Final = ipaddress.IPv6Network("2000::/3")
_REFUSED_V6: Final = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",
        "2002::/16",  # 6to4: an IPv4 address in disguise
        "3fff::/20",
    )
)


def parse(text: str) -> Address | None:
    """The address that a text is, None for a name. One that IPv6 maps or that carries a zone is taken for what it is
    meant for."""
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _REFUSED_V4)
    return address in _GLOBAL_V6 and not any(address in network for network in _REFUSED_V6)


def is_near(address: Address) -> bool:
    """Whether an address is this host's own or on a network that it is attached to: what guards those from the outside
    does not guard them from within."""
    return _is_own(address) or any(
        address.version == network.version and address in network
        for network in attached(_listing("route"), _listing("ipv6_route"))
    )


def _is_own(address: Address) -> bool:
    """Asks the kernel which address it would speak from; nothing is sent."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return parse(probe.getsockname()[0]) == address
    except OSError:  # no way leads there
        return False


def _listing(name: str) -> str:
    try:
        with Path("/proc/net", name).open(encoding="ascii") as file:
            return file.read(MOST_OF_ROUTES).rpartition("\n")[0]  # no half line
    except FileNotFoundError:  # a kernel without IPv6
        return ""


def attached(routes: str, routes_v6: str) -> Iterator[Network]:
    """The networks that are reached without a gateway, from the kernel's listings `route` and `ipv6_route`."""
    for line in routes.splitlines()[1:]:
        fields = line.split()
        if len(fields) >= 8 and fields[2] == "00000000" and fields[7] != "00000000":
            destination, mask = (int.from_bytes(bytes.fromhex(fields[place]), sys.byteorder) for place in (1, 7))
            yield ipaddress.IPv4Network((destination, str(ipaddress.IPv4Address(mask))), strict=False)
    for line in routes_v6.splitlines():
        fields = line.split()
        if len(fields) >= 10 and fields[4] == "0" * 32 and fields[1] != "00" and fields[9] != "lo":
            yield ipaddress.IPv6Network((int(fields[0], 16), int(fields[1], 16)), strict=False)


class Reach:
    """What webhooks may reach. `opened` are networks that an operator opened, whatever they are."""

    def __init__(self, opened: Iterable[str] = (), near: Callable[[Address], bool] = is_near) -> None:
        self._opened: tuple[Network, ...] = tuple(ipaddress.ip_network(network) for network in opened)
        self._near = near

    def allows(self, text: str) -> bool:
        """Whether the address that `text` is may be connected to; False where it is none."""
        address = parse(text)
        if address is None:
            return False
        if any(address.version == network.version and address in network for network in self._opened):
            return True
        return is_public(address) and not self._near(address)
