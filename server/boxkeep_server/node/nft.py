"""What sandboxes may reach, as nft rules: pure text for the router's table and the host's."""

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from boxkeep_server.node.addresses import Plan

TABLE: Final = "boxkeep"
GUEST_PORT: Final = 7071
DNS_PORT: Final = 53
CONNECTIONS: Final = 4096
"""Connections that one sandbox may have at once; what is over is refused."""
NEW_PER_SECOND: Final = 1000

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


def router(plan: Plan, uplink: str, opened: Sequence[tuple[str, int]]) -> str:
    """The table of the router's namespace, with empty sets for sandboxes."""
    rate = f"{NEW_PER_SECOND}/second burst {NEW_PER_SECOND} packets"
    pairs = ", ".join(f"{address} . {port}" for address, port in opened)
    return f"""
table inet {TABLE} {{
  set places {{ type ifname . ipv4_addr; }}
  set internet {{ type ifname; }}
  set named {{ type ifname; }}
  set allowed {{ type ifname . ipv4_addr; flags interval; }}
  set host {{ type ipv4_addr; flags interval; auto-merge; }}
  set refused {{ type ipv4_addr; flags interval; elements = {{ {", ".join(REFUSED)} }}; }}
  set opened {{ type ipv4_addr . inet_service; {f"elements = {{ {pairs} }};" if pairs else ""} }}
  set connections {{ type ipv4_addr; size 65535; flags dynamic; }}
  set openings {{ type ipv4_addr; size 65535; flags dynamic,timeout; timeout 1m; }}

  chain refuse {{
    meta l4proto tcp reject with tcp reset
    reject with icmpx type port-unreachable
  }}
  chain inbound {{
    ct state established,related accept
    ip saddr {plan.uplink.gateway} tcp dport {GUEST_PORT} accept
    jump refuse
  }}
  chain counted {{
    ct state new add @connections {{ ip saddr ct count over {CONNECTIONS} }} jump refuse
    ct state new update @openings {{ ip saddr limit rate over {rate} }} jump refuse
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    meta nfproto ipv6 jump refuse
    iifname "{uplink}" jump inbound
    iifname . ip saddr != @places drop
    ct state established,related accept
    ct state invalid drop
    oifname != "{uplink}" jump refuse
    jump counted
    ip daddr . tcp dport @opened iifname @internet accept
    ip daddr @host jump refuse
    ip daddr @refused jump refuse
    tcp dport 25 jump refuse
    iifname @internet accept
    iifname . ip daddr @allowed accept
    jump refuse
  }}
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname "lo" accept
    meta nfproto ipv6 drop
    ct state established,related accept
    iifname "{uplink}" icmp type echo-request accept
    iifname "{uplink}" jump refuse
    iifname . ip saddr != @places drop
    jump counted
    iifname @named udp dport {DNS_PORT} accept
    iifname @named tcp dport {DNS_PORT} accept
    icmp type echo-request accept
    jump refuse
  }}
}}
"""


def host(name: str, plan: Plan, uplink: str, uids: Collection[int]) -> str:
    """The instance's table on the host: who may dial sandboxes, nothing dialled from them, masquerade."""
    return f"""
table inet {name} {{
  chain output {{
    type filter hook output priority filter; policy accept;
    oifname "{uplink}" ct state new meta skuid != {{ {", ".join(map(str, sorted(uids)))} }} reject
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname "{uplink}" ct state established,related accept
    iifname "{uplink}" reject
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
    return _gone("places", f'"{link}" . {address}')


def egress(link: str, internet: bool, allow: Iterable[str] | None, before: Iterable[str]) -> str:
    """Commands that set what a sandbox reaches; `before` are the networks it was allowed until now."""
    lines = [_gone("internet", f'"{link}"'), _gone("named", f'"{link}"')]
    lines += [_gone("allowed", f'"{link}" . {network}') for network in before]
    if internet and allow is None:
        lines.append(f'add element inet {TABLE} internet {{ "{link}" }}\n')
    if internet or allow:
        lines.append(f'add element inet {TABLE} named {{ "{link}" }}\n')
    lines += [f'add element inet {TABLE} allowed {{ "{link}" . {network} }}\n' for network in allow or ()]
    return "".join(lines)


def host_networks(networks: Iterable[str]) -> str:
    """Commands that set the host's own addresses and the networks it is attached to."""
    elements = ", ".join(sorted(networks))
    add = f"add element inet {TABLE} host {{ {elements} }}\n" if elements else ""
    return f"flush set inet {TABLE} host\n{add}"


def _gone(name: str, element: str) -> str:
    # Deleting what is not there would fail the transaction; adding it first makes both the same.
    return f"add element inet {TABLE} {name} {{ {element} }}\ndelete element inet {TABLE} {name} {{ {element} }}\n"
