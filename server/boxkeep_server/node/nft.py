"""What sandboxes may reach, as nft rules: pure text for the router's table and the host's."""

import ipaddress
import json
from collections.abc import Collection, Iterable
from typing import Any, Final

from boxkeep_server.node.addresses import Plan

TABLE: Final = "boxkeep"
OWN_TABLES: Final = "boxkeep_"
"""How the names of instances' tables on the host begin."""
OF_SANDBOXES: Final = ("places", "internet", "named", "allowed", "cut")
"""The sets whose elements are of one sandbox each and begin with its link."""
GUEST_PORT: Final = 7071
DNS_PORT: Final = 53
CONNECTIONS: Final = 4096
"""Connections that one sandbox may have at once; what is over is refused."""
NEW_PER_SECOND: Final = 1000
QUESTIONS: Final = 100
"""DNS queries of one sandbox in a second; what is over is dropped. Four times as many may come at once."""
ALL_QUESTIONS: Final = 2000
"""The same for all sandboxes together: they are answered by the node's own process."""

# A connection carries its sandbox's address as its mark, by which `conntrack.forget` finds it.
_MARK_SOURCE: Final = "ct mark set @nh,96,32"
_MARK_DESTINATION: Final = "ct mark set @nh,128,32"

REFUSED: Final = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",  # carrier-grade NAT; a cloud's metadata service lives in it too
    "127.0.0.0/8",
    "168.63.129.16/32",  # Azure's wire server
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
)
"""Never reached but through an opened pair. The documentation ranges are not here: some sites route mirrors there."""


METADATA: Final = ("100.100.100.200/32", "168.63.129.16/32", "169.254.0.0/16", "192.0.0.192/32")
"""Where clouds tell a machine its identity: within `REFUSED`, and opened by nothing but the operator's own word."""


def router(plan: Plan, uplink: str, opened: Iterable[tuple[str, int]]) -> str:
    """The table of the router's namespace, in one transaction.

    Where the table is there already its rules are made anew and what it holds of sandboxes stays, so that a new
    version or another setting takes effect under running sandboxes.
    """
    return f"""
table inet {TABLE} {{
  set places {{ type ifname . ipv4_addr; }}
  set internet {{ type ifname; }}
  set named {{ type ifname; }}
  set cut {{ type ifname; }}
  set allowed {{ type ifname . ipv4_addr; flags interval; }}
  set host {{ type ipv4_addr; flags interval; auto-merge; }}
  set refused {{ type ipv4_addr; flags interval; }}
  set opened {{ type ipv4_addr . inet_service; }}
  set connections {{ type ipv4_addr; size 65535; flags dynamic; }}
  set openings {{ type ipv4_addr; size 65535; flags dynamic,timeout; timeout 1m; }}
  set questions {{ type ipv4_addr; size 65535; flags dynamic,timeout; timeout 1m; }}
}}
flush table inet {TABLE}
flush set inet {TABLE} refused
add element inet {TABLE} refused {{ {", ".join(_refused(plan))} }}
{opened_pairs(opened)}
table inet {TABLE} {{
  {_REFUSE_AND_COUNT}
  {_from_host(plan)}
  {_forward(uplink)}
  {_input(uplink)}
}}
"""


def _refused(plan: Plan) -> list[str]:
    # The sandboxes' own network too, were it a public one: what has no place must not bounce off the host.
    networks = [*map(ipaddress.IPv4Network, REFUSED), plan.subnet]
    return [str(network) for network in ipaddress.collapse_addresses(networks)]


_REFUSE_AND_COUNT: Final = f"""
  chain refuse {{
    meta l4proto tcp reject with tcp reset
    reject with icmpx type port-unreachable
  }}
  chain counted {{
    {_MARK_SOURCE}
    add @connections {{ ip saddr ct count over {CONNECTIONS} }} jump refuse
    update @openings {{ ip saddr limit rate over {NEW_PER_SECOND}/second burst {NEW_PER_SECOND} packets }} jump refuse
  }}
  chain spoken {{
    meta l4proto {{ tcp, udp }} accept
    icmp type echo-request accept
    ct state related meta l4proto icmp accept
  }}
  chain asked {{
    update @questions {{ ip saddr limit rate over {QUESTIONS}/second burst {4 * QUESTIONS} packets }} drop
    limit rate over {ALL_QUESTIONS}/second burst {ALL_QUESTIONS} packets drop
    accept
  }}"""


def _from_host(plan: Plan) -> str:
    """What comes in by the uplink: the host's calls of guests, and answers to those who may still hear them."""
    return f"""
  chain inbound {{
    oifname @cut ct state new drop
    ct state invalid drop
    ct state related accept
    ip saddr {plan.uplink.gateway} tcp dport {GUEST_PORT} ct state new {_MARK_DESTINATION}
    ip saddr {plan.uplink.gateway} tcp dport {GUEST_PORT} accept
    ct state established oifname @internet accept
    ct state established oifname . ip saddr @allowed accept
    jump refuse
  }}"""


# Whatever such a machine sends by TCP resets what it is sent on, but for its guest's words and its own resets. Before
# connections are judged invalid: asked out of turn, as by `resets`, some would be.
_CUT: Final = f"iifname @cut tcp sport != {GUEST_PORT} tcp flags & rst == 0 jump refuse"


def _forward(uplink: str) -> str:
    """What sandboxes send. Each packet is judged, not only a connection's first: what is revoked ends at once."""
    return f"""
  chain forward {{
    type filter hook forward priority filter; policy drop;
    meta nfproto ipv6 jump refuse
    iifname "{uplink}" jump inbound
    iifname . ip saddr != @places drop
    {_CUT}
    ct state invalid drop
    ct direction reply ct state established,related accept
    oifname != "{uplink}" jump refuse
    ct state new jump counted
    iifname @internet ip daddr . tcp dport @opened accept
    ip daddr @host jump refuse
    ip daddr @refused jump refuse
    tcp dport 25 jump refuse
    iifname @internet jump spoken
    iifname . ip daddr @allowed jump spoken
    jump refuse
  }}"""


def _input(uplink: str) -> str:
    """What is sent to the router itself: names are asked of it, nothing else."""
    return f"""
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname "lo" accept
    meta nfproto ipv6 drop
    iifname "{uplink}" ct state established,related accept
    iifname "{uplink}" icmp type echo-request accept
    iifname "{uplink}" jump refuse
    iifname . ip saddr != @places drop
    {_CUT}
    ct state invalid drop
    ct state new jump counted
    iifname @named tcp dport {DNS_PORT} ct state established accept
    iifname @named meta l4proto {{ tcp, udp }} th dport {DNS_PORT} jump asked
    icmp type echo-request accept
    jump refuse
  }}"""


def opened_pairs(opened: Iterable[tuple[str, int]]) -> str:
    """Commands that set the pairs that are open although their addresses are refused."""
    elements = ", ".join(f"{address} . {port}" for address, port in sorted(set(opened)))
    add = f"add element inet {TABLE} opened {{ {elements} }}\n" if elements else ""
    return f"flush set inet {TABLE} opened\n{add}"


def host(name: str, plan: Plan, uplink: str, uids: Collection[int], opened: Iterable[tuple[str, int]] = ()) -> str:
    """The instance's table on the host: who may dial sandboxes, nothing dialled from them, masquerade.

    Forwarded packets never begin a connection to a sandbox: else a container of this host would be taken for the host
    itself, whose address it is masqueraded with. `opened` are reached on the host's own addresses too.
    """
    pairs = ", ".join(f"{address} . {port}" for address, port in sorted(set(opened)))
    mirrors = f'iifname "{uplink}" ip daddr . tcp dport {{ {pairs} }} accept' if pairs else ""
    return f"""
table inet {name} {{
  chain output {{
    type filter hook output priority filter; policy accept;
    oifname "{uplink}" ct state new meta skuid != {{ {", ".join(map(str, sorted(uids)))} }} reject
    oifname "{uplink}" meta nfproto ipv6 reject
    oifname "{uplink}" ct state new {_MARK_DESTINATION}
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname "{uplink}" ct state established,related accept
    iifname "{uplink}" meta nfproto ipv4 ct state new {_MARK_SOURCE}
    {mirrors}
    iifname "{uplink}" reject
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    oifname "{uplink}" ct state established,related accept
    oifname "{uplink}" reject
    iifname "{uplink}" meta nfproto ipv6 reject
    iifname "{uplink}" ct state new {_MARK_SOURCE}
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {plan.subnet} oifname != "{uplink}" masquerade
  }}
}}
"""


def replaced(table: str, rules: str) -> str:
    """The same rules in place of whatever the table holds, in one transaction."""
    return f"table inet {table}\ndelete table inet {table}\n{rules}"


def placed(link: str, address: str) -> str:
    """Commands that let a sandbox's packets in from its link, under its address alone."""
    return f'add element inet {TABLE} places {{ "{link}" . {address} }}\n'


def unplaced(link: str, address: str) -> str:
    """Commands that take a sandbox's place away, were it there or not."""
    return _gone("places", f'"{link}" . {address}') + readmitted(link)


def cut_off(link: str) -> str:
    """Commands that have every TCP segment of a sandbox reset its connection. May be repeated."""
    return f'add element inet {TABLE} cut {{ "{link}" }}\n'


def readmitted(link: str) -> str:
    """Commands that take `cut_off` back, were it so or not."""
    return _gone("cut", f'"{link}"')


def egress(link: str, internet: bool, allow: Collection[str] | None, before: Iterable[str]) -> str:
    """Commands that set what a sandbox reaches; `before` are its elements of `allowed` as they are."""
    lines = [_gone("internet", f'"{link}"'), _gone("named", f'"{link}"')]
    lines += [f'delete element inet {TABLE} allowed {{ "{link}" . {network} }}\n' for network in before]
    if internet and allow is None:
        lines.append(f'add element inet {TABLE} internet {{ "{link}" }}\n')
    if internet or allow:
        lines.append(f'add element inet {TABLE} named {{ "{link}" }}\n')
    lines += [f'add element inet {TABLE} allowed {{ "{link}" . {network} }}\n' for network in allow or ()]
    return "".join(lines)


def elements(listed: str) -> list[tuple[str, ...]]:
    """The elements of a set as `nft -j list set` prints it, each part as nft reads it again."""
    parts = json.loads(listed or "{}").get("nftables", [])
    found: list[Any] = next((part["set"].get("elem", []) for part in parts if "set" in part), [])
    return [tuple(map(_text, one["concat"] if isinstance(one, dict) and "concat" in one else [one])) for one in found]


def _text(part: Any) -> str:
    if isinstance(part, dict) and "prefix" in part:
        return f"{part['prefix']['addr']}/{part['prefix']['len']}"
    if isinstance(part, dict) and "range" in part:
        return "-".join(map(str, part["range"]))
    return str(part["elem"]["val"] if isinstance(part, dict) else part)


def host_networks(networks: Iterable[str]) -> str:
    """Commands that set the host's own addresses and the networks it is attached to."""
    elements = ", ".join(sorted(networks))
    add = f"add element inet {TABLE} host {{ {elements} }}\n" if elements else ""
    return f"flush set inet {TABLE} host\n{add}"


def _gone(name: str, element: str) -> str:
    # Deleting what is not there would fail the transaction; adding it first makes both the same.
    return f"add element inet {TABLE} {name} {{ {element} }}\ndelete element inet {TABLE} {name} {{ {element} }}\n"
