"""The host's part of the network: its own table, and room for the uplink in rules that others have made."""

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from boxkeep_server.node import netns, nft
from boxkeep_server.node.addresses import Plan


class Firewall:
    """Rules for one uplink. Forwarding that iptables rules (docker's, ufw's) would drop is accepted ahead of them."""

    def __init__(self, table: str, plan: Plan, uplink: str, uids: Sequence[int]) -> None:
        self._table = table
        self._plan = plan
        self._uplink = uplink
        self._uids = frozenset({0, *uids})

    def set(self) -> None:
        """Set everything, in place of what is there."""
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        netns.nft(nft.replaced(self._table, nft.host(self._table, self._plan, self._uplink, self._uids)))
        self._set_forwarding()

    def mend(self) -> bool:
        """Set again what is missing; whether something was."""
        forwards = Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "1"
        tables = netns.run(["nft", "list", "tables"]).splitlines()
        if not forwards or f"table inet {self._table}" not in tables:
            self.set()
            return True
        return self._set_forwarding()

    def withdraw(self) -> None:
        """Take everything away. May be repeated."""
        netns.nft(f"table inet {self._table}\ndelete table inet {self._table}\n")
        for chain, rule in self._forwarding():
            while _has(chain, rule):
                netns.run(["iptables", "-w", "-D", chain, *rule])

    def _set_forwarding(self) -> bool:
        missing = [(chain, rule) for chain, rule in self._forwarding() if not _has(chain, rule)]
        for chain, rule in missing:
            netns.run(["iptables", "-w", "-I", chain, *rule])
        return bool(missing)

    def _forwarding(self) -> list[tuple[str, list[str]]]:
        """Chains of iptables that decide over forwarded packets here, with the rules that the uplink needs in each."""
        if shutil.which("iptables") is None:
            return []
        chains = []
        with contextlib.suppress(netns.CommandFailed):
            rules = netns.run(["iptables", "-w", "-S"]).splitlines()
            if "-N DOCKER-USER" in rules:
                chains = ["DOCKER-USER"]
            elif "-P FORWARD DROP" in rules or any(rule.startswith("-A FORWARD ") for rule in rules):
                chains = ["FORWARD"]
        back = ["-o", self._uplink, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"]
        return [(chain, rule) for chain in chains for rule in (["-i", self._uplink, "-j", "ACCEPT"], back)]


def _has(chain: str, rule: list[str]) -> bool:
    try:
        netns.run(["iptables", "-w", "-C", chain, *rule])
    except netns.CommandFailed:
        return False
    return True
