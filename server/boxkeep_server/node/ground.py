"""What machines of a real node stand on: its network, its images, the guest's bundle, and the count of leaks."""

import asyncio
import contextlib
import importlib.util
import ipaddress
import logging
import os
import pwd
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

from boxkeep_server.node.addresses import Addresses
from boxkeep_server.node.bases import Bases
from boxkeep_server.node.bundle import BundleError, build_bundle, make_tree
from boxkeep_server.node.cgroups import host_cgroups
from boxkeep_server.node.daemon import Ground
from boxkeep_server.node.disks import Disks
from boxkeep_server.node.images import Images
from boxkeep_server.node.layers import BadLayer
from boxkeep_server.node.leaks import Observer
from boxkeep_server.node.mirrors import configured, resolve, to_open
from boxkeep_server.node.netns import CommandFailed
from boxkeep_server.node.network import Network
from boxkeep_server.node.oci import GUEST as MOUNTED_GUEST
from boxkeep_server.node.parts import Guest
from boxkeep_server.node.records import Records
from boxkeep_server.node.resolver import Resolver
from boxkeep_server.node.snapshots import Snapshots
from boxkeep_server.settings import Settings

_log = logging.getLogger(__name__)

_IMAGES_EVERY_S: Final = 5.0
_MIRRORS_EVERY_S: Final = 60.0


async def lay(settings: Settings, disks: Disks) -> Ground:
    """Set up or take over the network, unpack what images there are, build the guest's bundle if it is new."""
    network = Network(
        settings.instance,
        settings.node.subnet,
        settings.run,
        uids=_uids(settings),
        internet=settings.node.internet,
        opened=[_pair(text) for text in settings.node.opened],
    )
    mirrors = partial(_open_mirrors, network)
    records = Records(settings.lib / "machines")
    images = Images(disks.volume, disks.images, settings.images)
    bases = Bases(images, settings.images, settings.lib / "bundles")
    await asyncio.to_thread(bases.clear)
    _, guest, _ = await asyncio.gather(
        network.setup(),
        asyncio.to_thread(_guest, settings.lib / "bundles"),
        asyncio.to_thread(images.refresh, lean=True),
    )
    await mirrors()
    taken = (one.index for machine in records.machines() if (one := records.read(machine)) is not None)
    addresses = Addresses(network.plan.size, time.monotonic, taken, settings.run / "resting.json")
    return Ground(
        links=network,
        addresses=addresses,
        images=images.all,
        guest=guest,
        guest_digest=guest.tree.name,
        bases=bases,
        leaks=_observer(settings, disks, network, records, addresses).leaks,
        close=network.teardown,
        tasks=(
            network.monitor,
            Resolver(network.router).run,
            partial(_keep_images, images, lambda: records.digests() | Snapshots(disks).digests()),
            partial(_keep_mirrors, mirrors),
        ),
    )


async def _open_mirrors(network: Network) -> None:
    """Let sandboxes reach the mirrors that this host is configured with, were they at addresses that are refused."""
    found = await asyncio.to_thread(
        lambda: to_open(configured(Path("/etc"), Path.home(), os.environ), network.attached, resolve)
    )
    if await network.open(found):
        _log.info("opened for the host's mirrors and proxies: %s", ", ".join(f"{a}:{p}" for a, p in found) or "nothing")


async def _keep_mirrors(opened: Callable[[], Awaitable[None]]) -> None:
    """Follow the mirrors when their names or the host's configuration change."""
    while True:
        await asyncio.sleep(_MIRRORS_EVERY_S)
        try:
            await opened()
        except (OSError, CommandFailed) as error:
            _log.warning("the host's mirrors could not be opened: %s", error)


def _guest(bundles: Path) -> Guest:
    """The guest's bundle, made from this host where that has the right Python, else from a tree of its own."""
    found = importlib.util.find_spec("boxkeep_guest")
    if found is None or found.origin is None:
        raise BundleError("the package boxkeep_guest is not installed beside the server")
    program = Path(found.origin).parent
    try:
        bundle = build_bundle(bundles, program)
    except BundleError as error:
        _log.info("the bundle gets a Python of its own: %s", error)
        with tempfile.TemporaryDirectory() as scratch:
            bundle = build_bundle(bundles, program, make_tree(Path(scratch) / "tree"))
    return Guest(bundle.path, tuple(bundle.command(MOUNTED_GUEST)))


def _observer(settings: Settings, disks: Disks, network: Network, records: Records, addresses: Addresses) -> Observer:
    cgroups = host_cgroups(settings.instance)
    return Observer(settings.run, settings.lib / "pool.img", disks, cgroups, network, records, addresses.taken)


async def _keep_images(images: Images, used: Callable[[], set[str]]) -> None:
    """Take up images that are built while the node runs, and let go of those that no machine needs any more."""
    while True:
        try:
            if await asyncio.to_thread(images.refresh):
                _log.info("images are now %s", {name: image.digest for name, image in images.all().items()})
            if gone := await asyncio.to_thread(lambda: images.remove_unused(used(), time.monotonic())):
                _log.info("%d images of which no machine is made any more were removed", gone)
        except (OSError, subprocess.CalledProcessError, BadLayer) as error:
            _log.warning("images could not be kept current: %s", error)
        await asyncio.sleep(_IMAGES_EVERY_S)


def _uids(settings: Settings) -> list[int]:
    with contextlib.suppress(KeyError):
        return [pwd.getpwnam(settings.account).pw_uid]
    return []


def _pair(text: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    return str(ipaddress.IPv4Address(address)), int(port)
