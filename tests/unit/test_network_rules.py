import ipaddress
import json
import socket
import struct
import sys

import pytest

from boxkeep_server.node import attached, conntrack, foreign_chains, nft
from boxkeep_server.node.addresses import Plan
from boxkeep_server.node.resolver import failed

PLAN = Plan(ipaddress.IPv4Network("10.203.0.0/16"))
DOCUMENTATION = ("192.0.2.1", "198.51.100.1", "203.0.113.1")


def refused(address: str) -> bool:
    return any(ipaddress.IPv4Address(address) in ipaddress.IPv4Network(network) for network in nft.REFUSED)


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "100.64.0.1",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "169.254.169.254",
        "127.0.0.53",
        "0.0.0.0",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "198.18.0.1",
    ],
)
def test_addresses_of_no_public_place_are_refused(address: str) -> None:
    assert refused(address)


@pytest.mark.parametrize("address", [*DOCUMENTATION, "8.8.8.8", "100.63.255.255", "100.128.0.0", "172.32.0.0"])
def test_public_and_documentation_addresses_are_not_refused_as_such(address: str) -> None:
    assert not refused(address)


def test_every_metadata_address_is_refused() -> None:
    assert all(refused(network.partition("/")[0]) for network in nft.METADATA)


def test_a_public_subnet_of_sandboxes_is_refused_to_them() -> None:
    rules = nft.router(Plan(ipaddress.IPv4Network("203.0.113.0/24")), "up", [])
    assert "203.0.113.0/24" in rules.partition("refused {")[2].partition("\n")[0] or "203.0.113.0/24" in rules


def test_without_internet_and_without_a_list_no_names_are_answered() -> None:
    assert "add element inet boxkeep named" not in nft.egress("b1", False, None, ()).replace(
        nft._gone("named", '"b1"'), ""
    )
    assert 'add element inet boxkeep named { "b1" }' in nft.egress("b1", True, ("8.8.8.8/32",), ())


def test_an_empty_allow_list_allows_nothing() -> None:
    lines = nft.egress("b1", True, (), ()).splitlines()
    assert 'add element inet boxkeep internet { "b1" }' not in lines[2:]
    assert not any("allowed" in line for line in lines)


def test_elements_are_read_as_nft_takes_them_again() -> None:
    prefix = {"concat": ["b1", {"prefix": {"addr": "203.0.113.0", "len": 24}}]}
    between = {"concat": ["b2", {"range": ["1.1.1.1", "1.1.1.3"]}]}
    listed = json.dumps({"nftables": [{"metainfo": {}}, {"set": {"elem": [prefix, between, "b3"]}}]})
    assert nft.elements(listed) == [("b1", "203.0.113.0/24"), ("b2", "1.1.1.1-1.1.1.3"), ("b3",)]
    assert nft.elements('{"nftables": [{"set": {}}]}') == []


def test_a_request_to_forget_always_names_a_mark() -> None:
    message = conntrack.request(ipaddress.IPv4Network("10.203.0.14/32"))
    length, kind = struct.unpack_from("=IH", message)
    attributes = message[20:]
    assert length == len(message) == 36
    assert kind == 0x0102
    assert struct.unpack_from("=HH", attributes) == (8, 8)
    assert struct.unpack_from("=HH", attributes, 8) == (8, 21)
    mark, mask = struct.unpack_from(">I", attributes, 4)[0], struct.unpack_from(">I", attributes, 12)[0]
    assert mark.to_bytes(4, sys.byteorder) == socket.inet_aton("10.203.0.14")
    assert mask == 0xFFFFFFFF


def route(dst: str, **more: str) -> dict[str, str]:
    return {"dst": dst, "dev": "eth0", **more}


def test_what_is_attached_is_told_from_what_is_routed_on() -> None:
    addresses = [
        {"ifname": "eth0", "addr_info": [{"local": "198.51.100.7", "prefixlen": 24}]},
        {"ifname": "up", "addr_info": [{"local": "10.203.255.253", "prefixlen": 30}]},
        {"ifname": "down", "addr_info": [{"local": "203.0.113.9", "prefixlen": 32}]},
    ]
    routes = [
        route("default", gateway="198.51.100.1"),
        route("default", scope="link"),
        route("0.0.0.0/1", scope="link"),
        route("192.0.2.0/28", scope="link"),
        route("192.0.2.64/28", gateway="198.51.100.1"),
        route("192.0.2.128/28", type="local", scope="host"),
        route("192.0.2.200", type="local", scope="host"),
        {"type": "blackhole", "dst": "9.9.9.0/24"},
        {"dst": "10.203.0.0/16", "dev": "up", "scope": "link"},
        {"dst": "8.8.4.0/24", "nexthops": "…"},
    ]
    found = attached.networks(json.dumps(addresses), json.dumps(routes), "up")
    expected = {"198.51.100.0/24", "203.0.113.9/32", "192.0.2.0/28", "192.0.2.128/28", "192.0.2.200/32"}
    assert found == expected


def test_a_route_to_the_sandboxes_counts_by_the_uplink_alone() -> None:
    subnet = ipaddress.IPv4Network("10.203.0.0/16")
    assert attached.leads(json.dumps([{"dst": "10.203.0.0/16", "dev": "up"}]), subnet, "up")
    assert not attached.leads(json.dumps([{"dst": "10.203.0.0/16", "dev": "eth0"}]), subnet, "up")
    assert not attached.leads("", subnet, "up")


def chain(family: str, table: str, name: str, hook: str = "forward", kind: str = "filter") -> dict[str, object]:
    return {"chain": {"family": family, "table": table, "name": name, "hook": hook, "type": kind, "policy": "drop"}}


def test_only_chains_of_others_that_filter_what_the_host_hears_passes_on_and_says_are_looked_at() -> None:
    listed = json.dumps(
        {
            "nftables": [
                {"metainfo": {}},
                chain("inet", "firewalld", "filter_FORWARD"),
                chain("ip", "filter", "FORWARD"),
                chain("ip6", "filter", "FORWARD"),
                chain("inet", "boxkeep_main", "forward"),
                chain("inet", "filter", "input", hook="input"),
                chain("inet", "filter", "early", hook="prerouting"),
                chain("ip", "nat", "out", hook="output", kind="nat"),
                {"chain": {"family": "inet", "table": "filter", "name": "plain"}},
            ]
        }
    )
    found = [one.table for one in foreign_chains.filtering(listed, "boxkeep_", iptables=True)]
    assert found == ["firewalld", "filter"]
    assert len(foreign_chains.filtering(listed, "boxkeep_", iptables=False)) == 3


@pytest.mark.parametrize(
    ("expression", "stops"), [({"counter": {}}, False), ({"reject": {}}, True), ({"jump": {}}, True)]
)
def test_a_chain_that_only_counts_stops_nothing(expression: dict[str, object], stops: bool) -> None:
    one = foreign_chains.Chain("inet", "t", "c", "forward", drops=False)
    assert foreign_chains.stops(one, [{"expr": [expression]}]) is stops
    assert foreign_chains.stops(foreign_chains.Chain("inet", "t", "c", "forward", drops=True), [])


def test_a_failed_answer_differs_from_its_query_in_two_bits_of_meaning() -> None:
    query = b"id\x01\x20\0\1\0\0\0\0\0\0\3www\0\0\1\0\1"
    answer = failed(query)
    assert answer[:2] + answer[4:] == query[:2] + query[4:]
    assert answer[2] == 0x81
    assert answer[3] & 0x0F == 2
