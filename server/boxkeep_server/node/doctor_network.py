"""What doctor says of a host's network: the sandboxes' own, names, connections, and rules of others."""

import ipaddress
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from boxkeep_server.node import firewalld, foreign_chains
from boxkeep_server.node.findings import Finding
from boxkeep_server.node.nft import CONNECTIONS, OWN_TABLES

LONGEST_SUBNET: Final = 28


def judge_connections(most: int | None) -> Finding:
    """Connections of all sandboxes are remembered in the host's table too; each may have 4,096 at once."""
    if most is None:
        return Finding("connections", "ok", "not tracked yet")
    if most >= 32 * CONNECTIONS:
        return Finding("connections", "ok", f"{most} tracked at most")
    mend = f"sysctl net.netfilter.nf_conntrack_max=262144; {most // CONNECTIONS} greedy sandboxes fill the table now."
    return Finding("connections", "lost", f"{most} tracked at most", mend)


def judge_subnet(subnet: str, own: str, needed: Sequence[tuple[str, str]]) -> Finding:
    """The sandboxes' network must be nobody else's: of no route, no way out and no resolver of this host.

    `needed` are networks and addresses with where each is from, that of `own`, the uplink, left out.
    """
    try:
        ours = ipaddress.IPv4Network(subnet)
    except ValueError as error:
        return Finding("subnet", "fatal", subnet, f"Set node.subnet to an IPv4 network: {error}.")
    if ours.prefixlen > LONGEST_SUBNET:
        mend = f"Set node.subnet to a /{LONGEST_SUBNET} or a larger one; each sandbox takes a /30."
        return Finding("subnet", "fatal", subnet, mend)
    taken = [f"{to} on {device}" for to, device in needed if device != own and ours.overlaps(ipaddress.IPv4Network(to))]
    if not taken:
        return Finding("subnet", "ok", subnet)
    return Finding("subnet", "fatal", f"{subnet} overlaps {', '.join(taken)}", "Set node.subnet to a free network.")


def resolvers(file: Path) -> list[str]:
    """The addresses in a resolv.conf, which need not be there."""
    lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
    return [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]


def judge_resolver(file: Path) -> Finding:
    """Sandboxes' names are asked of the host's resolvers, which may listen on its loopback alone."""
    if found := resolvers(file):
        return Finding("resolver", "ok", ", ".join(found))
    mend = f"Name a resolver in {file}; without it sandboxes resolve no names."
    return Finding("resolver", "lost", "none", mend)


_SIGNS: Final = {"DOCKER": "docker", "ufw-user-forward": "ufw", "filter_FORWARD": "firewalld"}
"""Chains by which it is seen who keeps a firewall here."""


def judge_firewall(tables: str, chains: str) -> Finding:
    """From `nft -j list tables` and `nft -j list chains`: the node lets the uplink through rules of others."""
    names = {chain["name"] for chain in _parts(chains, "chain")}
    keepers = sorted({keeper for sign, keeper in _SIGNS.items() if sign in names})
    filtering = foreign_chains.filtering(chains, OWN_TABLES, iptables=False)
    dropping = [" ".join(chain.words) for chain in filtering if chain.drops]
    locked = {table["name"] for table in _parts(tables, "table") if "owner" in table.get("flags", ())}
    seen = ", ".join([*keepers, *(f"{words} drops" for words in dropping)]) or "nothing drops packets"
    shut = sorted({chain.table for chain in filtering} & locked - {firewalld.TABLE})
    if not shut:
        return Finding("firewall", "ok", seen)
    mend = (
        f"Nobody but its owner may change the table {shut[0]}: have that let the uplink through, or there is no egress."
    )
    return Finding("firewall", "lost", seen, mend)


def _parts(listed: str, kind: str) -> list[dict[str, Any]]:
    return [part[kind] for part in json.loads(listed).get("nftables", []) if kind in part]
