"""The host's part of the network: its own table, and room for the uplink in rules that others have made."""

import contextlib
import functools
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from boxkeep_server.node import firewalld, foreign_chains, netns, nft
from boxkeep_server.node.addresses import Plan
from boxkeep_server.node.foreign_chains import Chain
from boxkeep_server.node.nftables import Nftables

_log = logging.getLogger(__name__)

_LEGACY_TABLES: Final = Path("/proc/net/ip_tables_names")
_FORWARDS: Final = Path("/proc/sys/net/ipv4/ip_forward")


class Firewall:
    """Rules for one uplink, of the network namespace that this process is in.

    A packet that one base chain drops is lost whatever the others say. So the uplink's are accepted at the head of
    each that might, of what is passed on, and of what the host itself hears and says by it: docker's and ufw's by
    iptables, firewalld's and an administrator's own by nft. What may pass the own table alone says, at each hook.
    """

    def __init__(
        self, instance: str, plan: Plan, uplink: str, uids: Sequence[int], opened: Sequence[tuple[str, int]] = ()
    ) -> None:
        self._table = f"{nft.OWN_TABLES}{instance}"
        self._comment = f"boxkeep {instance}"
        self._uplink = uplink
        self._plan = plan
        self._uids = frozenset({0, *uids})
        self.opened = tuple(opened)
        """Pairs of address and port that sandboxes reach on this host itself; `set` makes a change take effect."""
        # As iptables prints them.
        self._wanted = {
            "input": (f"-i {uplink} -j ACCEPT",),
            "forward": (f"-i {uplink} -j ACCEPT", f"-o {uplink} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
            "output": (f"-o {uplink} -j ACCEPT",),
        }
        self._wanted_by_nft = {
            "input": (f'iifname "{uplink}"',),
            "forward": (f'iifname "{uplink}"', f'oifname "{uplink}" ct state established,related'),
            "output": (f'oifname "{uplink}"',),
        }
        self._as_set = ""
        self._told: set[Chain] = set()

    @functools.cached_property
    def _rules(self) -> Nftables:
        return Nftables()

    def set(self) -> None:
        """Set everything, in place of what is there."""
        _FORWARDS.write_text("1")
        rules = nft.host(self._table, self._plan, self._uplink, self._uids, self.opened)
        self._rules.change(nft.replaced(self._table, rules))
        self._as_set = self._own_rules()
        self._make_room()

    def mend(self) -> bool:
        """Set again what is missing; whether something was."""
        if _FORWARDS.read_text().strip() != "1" or self._own_rules() != self._as_set:
            self.set()
            return True
        return self._make_room()

    def withdraw(self) -> None:
        """Take everything away. May be repeated."""
        self._rules.change(f"table inet {self._table}\ndelete table inet {self._table}\n")
        for command in _iptables():
            for rule in _listed(command):
                if rule.startswith("-A ") and self._uplink in rule.split() and rule.endswith("-j ACCEPT"):
                    netns.run([command, "-w", "-D", *rule.split()[1:]])
        for one in self._foreign_chains():
            for handle in foreign_chains.handles(self._rules_of(one), self._comment):
                self._rules.change(f"delete rule {' '.join(one.words)} handle {handle}")
        if firewalld.runs() and self._is_known_to_firewalld():
            with contextlib.suppress(netns.CommandFailed):
                firewalld.forget(self._uplink)

    def _own_rules(self) -> str:
        try:
            return self._rules.text(f"list table inet {self._table}")
        except netns.CommandFailed:
            return ""

    def _make_room(self) -> bool:
        by_iptables = self._make_room_by_iptables()
        return self._make_room_by_nft() or by_iptables

    def _make_room_by_iptables(self) -> bool:
        missing = [
            (command, chain, rule)
            for command in _iptables()
            for rules in [_listed(command)]
            for hook, chain in _deciding(rules)
            for rule in self._wanted[hook]
            if f"-A {chain} {rule}" not in rules
        ]
        for command, chain, rule in missing:
            netns.run([command, "-w", "-I", chain, *rule.split()])
        return bool(missing)

    def _make_room_by_nft(self) -> bool:
        changed = False
        for chain in self._foreign_chains():
            held = self._rules_of(chain)
            if foreign_chains.stops(chain, held) and not foreign_chains.handles(held, self._comment):
                changed = self._insert(chain) or changed
        return changed

    def _insert(self, chain: Chain) -> bool:
        inserted = [
            f'insert rule {" ".join(chain.words)} {what} accept comment "{self._comment}"\n'
            for what in self._wanted_by_nft[chain.hook]
        ]
        try:
            self._rules.change("".join(inserted))
        except netns.CommandFailed as error:
            return self._asked_for(chain, error)
        return True

    def _asked_for(self, chain: Chain, error: netns.CommandFailed) -> bool:
        """Whether who keeps a chain that takes no rules was asked to let the uplink through, and does."""
        if chain.table == firewalld.TABLE and firewalld.runs():
            if self._is_known_to_firewalld():
                return False
            with contextlib.suppress(netns.CommandFailed):
                firewalld.trust(self._uplink)
                return True
        if chain not in self._told:
            self._told.add(chain)
            _log.warning("%s takes no rules, sandboxes may lack egress: %s", " ".join(chain.words), error)
        return False

    def _is_known_to_firewalld(self) -> bool:
        with contextlib.suppress(netns.CommandFailed):
            return f'"{self._uplink}"' in self._rules.text(f"list table inet {firewalld.TABLE}")
        return False

    def _foreign_chains(self) -> list[Chain]:
        listed = self._rules.json("list chains")
        return foreign_chains.filtering(listed, nft.OWN_TABLES, shutil.which("iptables") is not None)

    def _rules_of(self, chain: Chain) -> list[dict[str, object]]:
        return foreign_chains.rules(self._rules.json(f"list chain {' '.join(chain.words)}"))


def _iptables() -> list[str]:
    """The commands whose rules are in force. The older kind is asked only where it has rules: asking loads it."""
    found = ["iptables"] if shutil.which("iptables") else []
    with contextlib.suppress(OSError):
        if "filter" in _LEGACY_TABLES.read_text().split() and shutil.which("iptables-legacy"):
            found.append("iptables-legacy")
    return found


def _deciding(rules: Sequence[str]) -> list[tuple[str, str]]:
    """The hooks at which iptables decides over packets, each with the chain in which we may have our say first."""
    found = [
        (hook, hook.upper())
        for hook in foreign_chains.HOOKS
        if f"-P {hook.upper()} DROP" in rules or any(rule.startswith(f"-A {hook.upper()} ") for rule in rules)
    ]
    if "-N DOCKER-USER" in rules:
        return [(hook, "DOCKER-USER" if hook == "forward" else chain) for hook, chain in found]
    return found


def _listed(command: str) -> list[str]:
    try:
        return netns.run([command, "-w", "-S"]).splitlines()
    except netns.CommandFailed:
        return []
