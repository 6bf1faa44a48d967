"""The host's own addresses and the networks directly attached to it: pure, read from the listings of `ip`."""

import ipaddress
import json
from collections.abc import Iterator
from typing import Any, Final

_OWN: Final = ("local", "broadcast", "multicast", "anycast")
_WAY_OUT: Final = 8
"""A network with a shorter prefix than this is a way out through a tunnel, not one that is attached."""


def networks(addresses: str, routes: str, uplink: str) -> frozenset[str]:
    """From `ip -j -4 addr` and `ip -j -4 route show table all`, but for what is of the instance's own uplink.

    Routes tell what addresses do not: peers, ranges routed to the host itself, networks on a link without an address.
    """
    found = {*_of_addresses(json.loads(addresses or "[]"), uplink), *_of_routes(json.loads(routes or "[]"), uplink)}
    return frozenset(str(network) for network in ipaddress.collapse_addresses(found))


def _of_addresses(links: list[dict[str, Any]], uplink: str) -> Iterator[ipaddress.IPv4Network]:
    for link in links:
        if link.get("ifname") != uplink:
            for address in link.get("addr_info", ()):
                yield ipaddress.IPv4Interface(f"{address['local']}/{address['prefixlen']}").network


def _of_routes(routes: list[dict[str, Any]], uplink: str) -> Iterator[ipaddress.IPv4Network]:
    for route in routes:
        if route.get("dev") == uplink or route["dst"] == "default":
            continue
        network = ipaddress.IPv4Network(route["dst"], strict=False)
        attached = "type" not in route and route.get("scope") == "link" and "gateway" not in route
        if network.prefixlen >= _WAY_OUT and (attached or route.get("type") in _OWN):
            yield network


def leads(routes: str, subnet: ipaddress.IPv4Network, uplink: str) -> bool:
    """Whether the host's route to the sandboxes is as it should be."""
    return any(route["dst"] == str(subnet) and route.get("dev") == uplink for route in json.loads(routes or "[]"))
