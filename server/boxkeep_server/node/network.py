"""The network of an instance: a router namespace, one namespace and link a machine, one uplink to the host."""

import asyncio
import contextlib
import ipaddress
import json
import logging
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boxkeep_server.model.ids import is_id
from boxkeep_server.model.node_api import NetworkWish
from boxkeep_server.node import attached, conntrack, netns, nft, resets
from boxkeep_server.node.addresses import Plan
from boxkeep_server.node.firewall import Firewall
from boxkeep_server.node.nftables import Nftables

_log = logging.getLogger(__name__)

CHECK_EVERY_S: Final = 3.0
_LIST_S: Final = 0.1
_RESET_S: Final = 0.25
_SYSCTLS: Final = {
    "net/ipv6/conf/all/disable_ipv6": "1",
    "net/ipv6/conf/default/disable_ipv6": "1",
}
_ROUTER_SYSCTLS: Final = {
    **_SYSCTLS,
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/all/accept_redirects": "0",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    # Refusals are ICMP: with the kernel's limit all but a few a second would hang instead, and use up the host's.
    "net/ipv4/icmp_ratemask": "0",
}
# Inside everyone is root of nothing but the sandbox: low ports and ping need no right there.
_MACHINE_SYSCTLS: Final = {
    **_SYSCTLS,
    "net/ipv4/ip_unprivileged_port_start": "0",
    "net/ipv4/ping_group_range": "0 2147483647",
}


@dataclass(frozen=True)
class Attachment:
    """A machine's place: its namespace, its address, and the router's end of its link."""

    netns_path: Path
    address: str
    gateway: str


class Network:
    """Everything carries the instance's name. Of `run`, the directory `net` is the network's own."""

    def __init__(
        self,
        instance: str,
        subnet: str,
        run: Path,
        *,
        uids: Sequence[int],
        internet: bool = True,
        opened: Sequence[tuple[str, int]] = (),
    ) -> None:
        self.plan = Plan(ipaddress.IPv4Network(subnet))
        self._instance = instance
        self._directory = run / "net"
        self._router = self._directory / "router"
        self._internet = internet
        self._configured = tuple(sorted(set(opened)))
        self._host_link, self._router_link = f"u{instance}h", f"u{instance}r"
        self._firewall = Firewall(instance, self.plan, self._host_link, uids, self._configured)
        self._rules: Nftables | None = None
        self._turn = asyncio.Lock()
        self._host_networks: frozenset[str] = frozenset()
        self._mtu = 1500

    @property
    def router(self) -> Path:
        """The router's namespace."""
        return self._router

    @property
    def link_prefix(self) -> str:
        """How the names of the router's ends of machines' links begin."""
        return f"b{self._instance}"

    def link(self, index: int) -> str:
        """The name of the router's end of a machine's link."""
        return f"{self.link_prefix}{index:x}"

    async def setup(self) -> None:
        """Make the router and its uplink, or take over those of an earlier node process."""
        await asyncio.to_thread(self._setup)
        self._host_networks = frozenset()  # what the router holds is not known
        await self._refresh_host()

    def _setup(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._mtu = _uplink_mtu()
        if not netns.exists(self._router):
            netns.remove(self._router)
            self._unlink_host()  # its other end is in a router that nobody can enter any more
            netns.make(self._router, lambda: _set(_ROUTER_SYSCTLS))
        self._make_uplink()
        self._let_rules_go()
        self._rules = netns.within(self._router, self._set_router)
        self._firewall.set()

    def _set_router(self) -> Nftables:
        _set(_ROUTER_SYSCTLS)
        rules = Nftables()
        rules.change(nft.router(self.plan, self._router_link, self._firewall.opened))
        return rules

    def _let_rules_go(self) -> None:
        if self._rules is not None:
            self._rules.close()
            self._rules = None

    def _make_uplink(self) -> None:
        """Make the uplink, or what is missing of it."""
        here = self.plan.uplink
        if not _is_link(self._host_link):
            ends = f"{self._host_link} mtu {self._mtu} type veth peer name {self._router_link} mtu {self._mtu}"
            netns.ip(f"link add {ends} netns {self._router}")
        _set({f"net/ipv6/conf/{self._host_link}/disable_ipv6": "1"})
        netns.ip(f"addr replace {here.gateway}/30 dev {self._host_link}", f"link set {self._host_link} up")
        netns.within(
            self._router,
            lambda: netns.ip(
                "link set lo up",
                f"addr replace {here.address}/30 dev {self._router_link}",
                f"link set {self._router_link} up",
                f"route replace default via {here.gateway}",
            ),
        )
        netns.await_link(self._host_link)
        netns.ip(f"route replace {self.plan.subnet} via {here.address} dev {self._host_link}")

    def _unlink_host(self) -> None:
        with contextlib.suppress(netns.CommandFailed):
            netns.ip(f"link del {self._host_link}")

    @property
    def attached(self) -> frozenset[str]:
        """The host's own addresses and networks as they were seen last. Sandboxes are refused them."""
        return self._host_networks

    async def open(self, found: Iterable[tuple[str, int]]) -> bool:
        """Open these pairs of address and port beside the configured ones, in place of others; whether that is new."""
        opened = tuple(sorted({*self._configured, *found}))
        if opened == self._firewall.opened:
            return False
        await self._change(nft.opened_pairs(opened))
        self._firewall.opened = opened
        await asyncio.to_thread(self._firewall.set)
        return True

    async def attach(self, machine: str, index: int) -> Attachment:
        """Give a machine a namespace with one link, that reaches nothing yet."""
        place = self.plan.place(index)
        path = self._path(machine)
        await asyncio.to_thread(self._make_machine, path, place.address, place.gateway, index)
        await self._change(nft.placed(self.link(index), place.address))
        return Attachment(path, place.address, place.gateway)

    def _make_machine(self, path: Path, address: str, gateway: str, index: int) -> None:
        link = self.link(index)

        def inside() -> None:
            _set(_MACHINE_SYSCTLS)
            netns.ip(
                f"link add eth0 mtu {self._mtu} type veth peer name {link} mtu {self._mtu} netns {self._router}",
                "link set lo up",
                f"addr add {address}/30 dev eth0",
                "link set eth0 up",
                f"route add default via {gateway}",
            )

        netns.make(path, inside)
        netns.within(self._router, lambda: netns.ip(f"addr add {gateway}/30 dev {link}", f"link set {link} up"))
        netns.within(path, lambda: netns.await_link("eth0"))

    async def detach(self, machine: str, index: int) -> None:
        """Take a machine's place away. May be repeated, and begun from any half of an attachment."""
        link, address = self.link(index), self.plan.place(index).address

        async with self._turn:
            before = await self._allowed(machine, link)
            await self._change_now(
                nft.egress(link, internet=False, allow=None, before=before) + nft.unplaced(link, address)
            )
        await asyncio.to_thread(self._remove_machine, machine, link)
        await asyncio.to_thread(self._forget, ipaddress.IPv4Network(address))

    def _remove_machine(self, machine: str, link: str) -> None:
        def unlink() -> None:
            with contextlib.suppress(netns.CommandFailed):
                netns.ip(f"link del {link}")

        netns.within(self._router, unlink)
        netns.remove(self._path(machine))
        self._egress_mark(machine).unlink(missing_ok=True)

    def _forget(self, network: ipaddress.IPv4Network) -> None:
        """Forget connections, in the router and on the host."""
        try:
            netns.within(self._router, lambda: conntrack.forget(network))
            conntrack.forget(network)
        except OSError as error:
            _log.warning("%s; the kernel will, in five days", error)

    async def set_egress(self, machine: str, index: int, wish: NetworkWish) -> None:
        """Set what a machine may reach, in place of what it could. The operator's no outweighs the wish."""
        internet = wish.internet and self._internet
        allow = wish.allow if self._internet else None
        if allow is not None:
            allow = tuple(sorted(str(net) for net in ipaddress.collapse_addresses(map(ipaddress.IPv4Network, allow))))
        link = self.link(index)
        async with self._turn:
            before = await self._allowed(machine, link)
            if allow:
                self._egress_mark(machine).touch()
            await self._change_now(nft.egress(link, internet, allow, before))

    async def _allowed(self, machine: str, link: str) -> list[str]:
        """What is allowed to a link, asked of the kernel; only a machine that ever had an allow list costs that."""
        if not self._egress_mark(machine).exists():
            return []
        listed = await asyncio.to_thread(self._held.json, f"list set inet {nft.TABLE} allowed")
        return [element[1] for element in nft.elements(listed) if element[0] == link]

    async def cut_off(self, machine: str, index: int) -> None:
        """Reset the TCP connections that a machine has opened to the outside, at both ends, and every new one until
        `readmit`; nothing within it is touched. May be repeated.

        It takes half a second at most, and a few milliseconds where there are none. What does not come about of it is
        logged and raises nothing.
        """
        link, address = self.link(index), ipaddress.IPv4Address(self.plan.place(index).address)
        try:
            await self._change(nft.cut_off(link))
            had, left = await asyncio.to_thread(netns.within, self._router, lambda: _reset(link, address))
        except (netns.CommandFailed, OSError) as error:
            _log.warning("the connections of machine %s are not reset: %s", machine, error)
            return
        if left:
            _log.warning("of %d connections of machine %s %d do not go", had, machine, left)
        elif had:
            _log.info("%d connections of machine %s are reset", had, machine)

    async def readmit(self, index: int) -> None:
        """Take `cut_off` back. May be repeated, and for a machine that was not cut off.

        Raises:
            CommandFailed
        """
        await self._change(nft.readmitted(self.link(index)))

    async def found(self) -> list[str]:
        """The machines that have a namespace here."""
        return sorted(entry.name for entry in self._directory.iterdir() if is_id(entry.name))

    async def monitor(self) -> None:
        """Keep the host's part as it should be, for ever."""
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            try:
                await self.check()
            except (netns.CommandFailed, OSError) as error:
                _log.warning("the network could not be checked: %s", error)

    async def check(self) -> None:
        """Note the host's addresses as they are now, and mend what was taken away on the host."""
        routes = await self._refresh_host()
        if not attached.leads(routes, self.plan.subnet, self._host_link):
            await asyncio.to_thread(self._make_uplink)
            _log.warning("the host had lost its route to the sandboxes; it is set again")
        if await asyncio.to_thread(self._firewall.mend):
            _log.warning("the host's firewall had lost the rules of the uplink; they are set again")

    async def _refresh_host(self) -> str:
        """Note the host's addresses and networks; its routes."""
        addresses = await asyncio.to_thread(netns.run, ["ip", "-j", "-4", "addr"])
        routes = await asyncio.to_thread(netns.run, ["ip", "-j", "-4", "route", "show", "table", "all"])
        networks = attached.networks(addresses, routes, self._host_link)
        if networks != self._host_networks:
            await self._change(nft.host_networks(networks))
            self._host_networks = networks
        return routes

    async def _change(self, commands: str) -> None:
        """Change the router's rules, one change at a time."""
        async with self._turn:
            await self._change_now(commands)

    async def _change_now(self, commands: str) -> None:
        await asyncio.to_thread(self._held.change, commands)

    @property
    def _held(self) -> Nftables:
        if self._rules is None:
            raise netns.CommandFailed("the router is not set up")
        return self._rules

    async def teardown(self) -> None:
        """Remove everything. May be repeated."""
        await asyncio.to_thread(self._teardown)

    def _teardown(self) -> None:
        self._let_rules_go()
        self._firewall.withdraw()
        self._unlink_host()
        with contextlib.suppress(OSError):  # the router's own go with it
            conntrack.forget(self.plan.subnet)
        if self._directory.exists():
            for entry in list(self._directory.iterdir()):
                netns.remove(entry)
            self._directory.rmdir()

    def _path(self, machine: str) -> Path:
        if not is_id(machine):
            raise ValueError(f"not a machine id: {machine!r}")
        return self._directory / machine

    def _egress_mark(self, machine: str) -> Path:
        return self._path(machine).with_suffix(".egress")


def _reset(link: str, address: ipaddress.IPv4Address) -> tuple[int, int]:
    """Reset what a cut-off machine has open: of how many connections, and how many are left."""
    connections = conntrack.opened_by(address, _LIST_S)
    return len(connections), len(resets.reset(link, connections, _RESET_S))


def _set(values: dict[str, str]) -> None:
    for name, value in values.items():
        path = Path("/proc/sys") / name
        if path.exists():
            path.write_text(value)


def _uplink_mtu() -> int:
    """The MTU of the host's way out, so that no packet is too large for it."""
    routes = json.loads(netns.run(["ip", "-j", "-4", "route", "show", "default"]) or "[]")
    for route in routes:
        links = json.loads(netns.run(["ip", "-j", "link", "show", "dev", route["dev"]]))
        return int(links[0]["mtu"])
    return 1500


def _is_link(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True
