"""The node process: puts everything together in order, and runs until it is told to stop; machines outlive it."""

import asyncio
import contextlib
import fcntl
import grp
import logging
import os
import pwd
import resource
import secrets
import signal
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Final, Protocol

from boxkeep_server.guestwire import GuestPool
from boxkeep_server.model.ids import new_id
from boxkeep_server.model.node_api import Isolation, Leaks
from boxkeep_server.node import hostfacts, room, syscalls
from boxkeep_server.node.api import Api, serve
from boxkeep_server.node.bases import Bases
from boxkeep_server.node.bodies import Bodies, Egress
from boxkeep_server.node.btrfs_pool import BtrfsPool
from boxkeep_server.node.cgroups import Cgroups, layout
from boxkeep_server.node.disks import Disks
from boxkeep_server.node.files import Files, files_in, node_id
from boxkeep_server.node.keeper import Keeper
from boxkeep_server.node.layer import MachineFailed, Maker, Stock
from boxkeep_server.node.machines import Machines, boot_id
from boxkeep_server.node.mountspace import MountSpace
from boxkeep_server.node.oci import Ceilings
from boxkeep_server.node.parts import Addresses, Guest, Image, Network, Parts
from boxkeep_server.node.plain_directory import PlainDirectory
from boxkeep_server.node.pool import Kind
from boxkeep_server.node.service import Service, World
from boxkeep_server.node.snapshots import Snapshots
from boxkeep_server.node.volumes import OtherVolume, Volume
from boxkeep_server.settings import Settings

_log = logging.getLogger(__name__)

_THREADS: Final = 16
_STARTS_PER_PROCESSOR: Final = 2
_DISKS_EVERY_S: Final = 1.0
_AHEAD_GIB: Final = 2
"""What there is room for ahead, beside what one sandbox may write at once."""


class NodeRuns(Exception):
    """Another node process of this instance lives."""


class NothingToRunIn(Exception):
    """None of the isolations that the operator allows is installed here."""


class Links(Network, Egress, Protocol):
    """The network as the node uses it."""


@dataclass(frozen=True)
class Ground:
    """What machines stand on beside disks, cgroups and runtimes.

    `close` takes the network of the whole instance down; `tasks` run as long as the node does.
    """

    links: Links
    addresses: Addresses
    images: Callable[[], Mapping[str, Image]]
    guest: Guest
    guest_digest: str
    bases: Bases
    leaks: Callable[[set[str]], Awaitable[Leaks]]
    close: Callable[[], Awaitable[None]]
    tasks: tuple[Callable[[], Awaitable[None]], ...] = ()


LayGround = Callable[[Settings, Disks], Awaitable[Ground]]


def run_on(settings: Settings, lay_ground: LayGround) -> None:
    """Be the node of an instance until SIGTERM or SIGINT. Blocking; to be called as root in a process of its own.

    Raises:
        NodeRuns, NothingToRunIn, OtherVolume
    """
    os.umask(0o022)
    for directory in (settings.lib, settings.run):
        # Root within a user namespace has to get through to its own root directory.
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    with _only_one(settings.run / "node.lock"):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        MountSpace(settings.run).enter()
        syscalls.become_subreaper()
        asyncio.run(_live(settings, lay_ground))


def take_down(settings: Settings, lay_ground: LayGround) -> list[str]:
    """End every machine of an instance and leave nothing of it in the kernel; its data stays. Answers whose they were.

    Blocking; to be called as root in a process of its own, once no node process lives. May be repeated.

    Raises:
        NodeRuns, NothingToRunIn, OtherVolume
        MachineFailed: something does not go; everything else is gone.
    """
    settings.run.mkdir(mode=0o711, parents=True, exist_ok=True)
    space = MountSpace(settings.run)
    with _only_one(settings.run / "node.lock"):
        space.enter()
        try:
            syscalls.become_subreaper()
            return asyncio.run(_end_all(settings, lay_ground))
        finally:
            space.leave()
            space.destroy()


async def _end_all(settings: Settings, lay_ground: LayGround) -> list[str]:
    opened = await open_node(settings, lay_ground)
    world = opened.world
    bindings = world.files.bindings.load()
    await end_each(world.maker, world.files, {*world.observer.found(), *(one.machine for one in bindings)})
    await opened.ground.close()
    opened.cgroups.close()
    opened.disks.volume.close()
    return sorted({one.sandbox for one in bindings})


async def end_each(maker: Maker, files: Files, machines: Collection[str]) -> None:
    """End machines, all that can be ended.

    Raises:
        MachineFailed: some do not go, and why.
    """

    async def end(machine: str) -> None:
        await maker.destroy(machine)
        files.bindings.remove(machine)
        files.marks.remove(machine)

    ended = await asyncio.gather(*map(end, sorted(machines)), return_exceptions=True)
    failed = [error for error in ended if isinstance(error, BaseException)]
    for error in failed:
        if not isinstance(error, MachineFailed):
            raise error
    if failed:
        raise MachineFailed("; ".join(map(str, failed)))


async def _live(settings: Settings, lay_ground: LayGround) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(_THREADS))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    opened = await open_node(settings, lay_ground)
    service = Service(opened.world)
    plan = await service.adopt()
    _log.info("adopted %d claims and %d warm machines", len(plan.hold), len(plan.warm))
    runner = await serve(Api(service, _uids(settings)).application(), settings.node_socket, _group(settings))
    try:
        await _until(stop, [service.run, *opened.ground.tasks, partial(_keep_disks, opened.disks)])
    finally:
        await runner.cleanup()


@dataclass(frozen=True)
class Opened:
    """A node whose parts are open; nothing of it runs yet."""

    world: World
    ground: Ground
    disks: Disks
    cgroups: Cgroups


async def _keep_disks(disks: Disks) -> None:
    """See that disks have room ahead, and that their limits go on to hold."""
    held = True
    while True:
        await asyncio.sleep(_DISKS_EVERY_S)
        await asyncio.to_thread(disks.volume.make_room)
        holds = await asyncio.to_thread(disks.volume.mend_limits)
        if held and not holds:
            _log.warning("the kernel has lost count of what disks use: their limits do not hold until it has counted")
        elif holds and not held:
            _log.warning("the limits of disks hold again")
        held = holds


async def open_node(settings: Settings, lay_ground: LayGround) -> Opened:
    """Open all that a node is made of, and put it together. To be called in the mount space.

    Raises:
        NothingToRunIn, OtherVolume
    """
    cgroup_layout = layout(Path("/proc/mounts").read_text())
    cgroups = Cgroups(cgroup_layout, f"boxkeep-{settings.instance}")
    total = room.read_memory().total
    cgroups.open(room.machines_limit(total))
    disks = open_disks(settings)
    ground, runtimes = await asyncio.gather(
        lay_ground(settings, disks), hostfacts.find_runtimes(settings.node.isolations, settings.run)
    )
    facts = await hostfacts.isolation_facts(runtimes)
    if not facts:
        raise NothingToRunIn(f"None of {', '.join(settings.node.isolations)} is installed")
    parts = Parts(
        disks=disks,
        cgroups=cgroups,
        network=ground.links,
        addresses=ground.addresses,
        runtimes=runtimes,
        guest=ground.guest,
        host=hostfacts.oci_host(cgroup_layout),
    )
    bodies = Bodies(
        machines=Machines(settings.lib, settings.run, parts),
        disks=disks,
        cgroups=cgroups,
        egress=ground.links,
        guests=GuestPool(),
        ceilings=_ceilings(settings),
    )
    world = World(
        maker=bodies,
        keeper=Keeper(
            machines=bodies.machines,
            snapshots=Snapshots(disks),
            disks=disks,
            guests=ground.guest.tree.parent,
            guest_digest=ground.guest_digest,
            isolations=facts,
            now=_now,
        ),
        bases=ground.bases,
        observer=bodies,
        files=files_in(settings.lib),
        stock=lambda: Stock(ground.images(), facts, ground.guest_digest),
        leaks=ground.leaks,
        memory=partial(hostfacts.memory_reader, cgroup_layout, cgroups.parent),
        now=_now,
        uptime=_uptime,
        new_id=new_id,
        new_secret=partial(secrets.token_hex, 32),
        boot_id=boot_id(),
        node_id=node_id(settings.lib, new_id),
        region=settings.node.region,
        version=metadata.version("boxkeep-server"),
        slots=room.slots(total, settings.node.slots),
        warm=_warm(settings),
        starts_at_once=_STARTS_PER_PROCESSOR * (os.cpu_count() or 1),
        disk_limit=disks.volume.limits_hold(),
        free_disk=disks.volume.free_bytes,
    )
    return Opened(world, ground, disks, cgroups)


def _now() -> int:
    return time.time_ns() // 1_000_000


def _uptime() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def open_disks(settings: Settings) -> Disks:
    """The instance's disks, opened where its settings say.

    Raises:
        OtherVolume
    """
    pool, directory, mount = settings.lib / "pool.img", settings.lib / "disks", settings.run / "pool"
    volume: Volume
    if settings.node.disks == "pool":
        _refuse_other(directory, settings)
        ahead_gib = settings.node.machine_disk_gib + _AHEAD_GIB
        volume = BtrfsPool(pool, mount, hostfacts.pool_bytes(settings.node.disk_gib, pool), ahead_gib << 30)
    else:
        _refuse_other(pool, settings)
        volume = PlainDirectory(directory, mount)
    disks = Disks(volume)
    disks.open()
    return disks


def _refuse_other(place: Path, settings: Settings) -> None:
    """What is kept of sandboxes on the one is not on the other: nobody is to lose sight of it by a setting."""
    if place.exists():
        raise OtherVolume(
            f'The settings say node.disks = "{settings.node.disks}", and this node has its disks in {place}: set it '
            f"back, or remove that after `boxkeep down` with all that is kept of sandboxes there"
        )


def _ceilings(settings: Settings) -> Ceilings:
    node = settings.node
    return Ceilings(
        memory_bytes=node.machine_memory_mib << 20,
        cpus=node.machine_cpus,
        pids=node.machine_pids,
        disk_bytes=node.machine_disk_gib << 30,
    )


def _warm(settings: Settings) -> dict[Kind, int]:
    isolations: dict[str, Isolation] = {"runsc": "runsc", "runc": "runc"}
    wanted = {}
    for name, number in settings.node.warm.items():
        image, _, isolation = name.partition("/")
        if isolation not in isolations:
            raise ValueError(f"node.warm: not of the form image/isolation: {name!r}")
        wanted[Kind(image, isolations[isolation])] = number
    return wanted


async def _until(stop: asyncio.Event, works: list[Callable[[], Awaitable[None]]]) -> None:
    """Do all works until told to stop; a failure of one is the node's."""
    tasks = [asyncio.ensure_future(work()) for work in works]
    stopping = asyncio.ensure_future(stop.wait())
    try:
        done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (*tasks, stopping):
            task.cancel()
        await asyncio.wait([*tasks, stopping])
    for task in done:
        if task is not stopping:
            task.result()


def _uids(settings: Settings) -> frozenset[int]:
    with contextlib.suppress(KeyError):
        return frozenset({0, pwd.getpwnam(settings.account).pw_uid})
    _log.warning("there is no account %s: the node API is for root alone", settings.account)
    return frozenset({0})


def _group(settings: Settings) -> int:
    try:
        return grp.getgrnam(settings.account).gr_gid
    except KeyError:
        return 0


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NodeRuns(f"A node process of this instance lives already ({path})") from None
        yield
