"""Which chains of other people's nft rules may stop the uplink's packets: pure, read from nft's own listings."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

_STOPPING: Final = ("drop", "reject", "jump", "goto", "queue")
_FAMILIES: Final = ("ip", "inet")
HOOKS: Final = ("input", "forward", "output")
"""Where the host filters what comes to it, what it passes on and what it sends."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A base chain that sees the uplink's packets, at one of the hooks."""

    family: str
    table: str
    name: str
    hook: str
    drops: bool

    @property
    def words(self) -> list[str]:
        """How nft names it."""
        return [self.family, self.table, self.name]


def filtering(listed: str, ours: str, iptables: bool) -> list[Chain]:
    """The chains of `nft -j list chains` that filter IPv4 packets at any of the hooks, but for tables named `ours…`.

    With `iptables`, the table that its command keeps is left to that command.
    """
    found = [part["chain"] for part in json.loads(listed or "{}").get("nftables", []) if "chain" in part]
    return [
        Chain(chain["family"], chain["table"], chain["name"], chain["hook"], chain.get("policy") == "drop")
        for chain in found
        if chain.get("hook") in HOOKS
        and chain.get("type") == "filter"
        and chain["family"] in _FAMILIES
        and not chain["table"].startswith(ours)
        and not (iptables and (chain["family"], chain["table"]) == ("ip", "filter"))
    ]


def rules(listed: str) -> list[dict[str, Any]]:
    """The rules of `nft -j list chain`."""
    return [part["rule"] for part in json.loads(listed or "{}").get("nftables", []) if "rule" in part]


def stops(chain: Chain, held: Sequence[dict[str, Any]]) -> bool:
    """Whether packets may end in the chain: one that only counts or marks is left alone."""
    return chain.drops or any(word in expression for rule in held for expression in rule["expr"] for word in _STOPPING)


def handles(held: Sequence[dict[str, Any]], comment: str) -> list[int]:
    """The numbers of the rules that carry a comment."""
    return [rule["handle"] for rule in held if rule.get("comment") == comment]
