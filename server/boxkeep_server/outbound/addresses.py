"""Which addresses a webhook may be sent to: public ones, and networks that the operator opened."""

import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

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


def is_own(address: Address) -> bool:
    """Whether an address is this host's own, which what guards it from the outside does not guard from within. Asks
    the kernel which address it would speak from; nothing is sent."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return parse(probe.getsockname()[0]) == address
    except OSError:  # no way leads there
        return False


class Reach:
    """What webhooks may reach. `opened` are networks that an operator opened, whatever they are."""

    def __init__(self, opened: Iterable[str] = (), own: Callable[[Address], bool] = is_own) -> None:
        self._opened: tuple[Network, ...] = tuple(ipaddress.ip_network(network) for network in opened)
        self._own = own

    def allows(self, text: str) -> bool:
        """Whether the address that `text` is may be connected to; False where it is none."""
        address = parse(text)
        if address is None:
            return False
        if any(address.version == network.version and address in network for network in self._opened):
            return True
        return is_public(address) and not self._own(address)
