"""A whole node body for tests: pool, cgroups, a small network, an image and a responder in place of the guest."""

import asyncio
import json
import os
import resource
import secrets
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from boxkeep_server.model.ids import new_id
from boxkeep_server.model.node_api import Isolation
from boxkeep_server.node.btrfs_pool import BtrfsPool
from boxkeep_server.node.cgroups import Cgroups, layout
from boxkeep_server.node.disks import Disks
from boxkeep_server.node.machines import Machines
from boxkeep_server.node.mountspace import MountSpace, mounts
from boxkeep_server.node.oci import Ceilings, Host
from boxkeep_server.node.parts import Guest, MachineSpec, Parts
from boxkeep_server.node.plain_directory import PlainDirectory
from boxkeep_server.node.probes import find_runc, find_runsc
from boxkeep_server.node.volumes import Volume
from tests.ingredients import CACHE, base_tree, runsc_binary
from tests.instances import OWN

INSTANCE, NUMBER = OWN.beside("m").name, OWN.beside("m").number
ISOLATIONS: tuple[Isolation, ...] = ("runc", "runsc")
GIB = 1 << 30


@dataclass(frozen=True)
class Image:
    name: str
    digest: str
    root: Path


@dataclass(frozen=True)
class Attachment:
    netns_path: Path
    address: str
    gateway: str


class Addresses:
    def __init__(self, first: int) -> None:
        self._taken: set[int] = set(range(first))

    def take(self, machine: str) -> int:
        index = next(number for number in range(1, 16384) if number not in self._taken)
        self._taken.add(index)
        return index

    def rest(self, index: int) -> None:
        self._taken.discard(index)


class DirectLinks:
    """A veth from the host straight into each machine's namespace: enough to reach its guest."""

    async def attach(self, machine: str, index: int) -> Attachment:
        third, fourth = divmod(index * 4, 256)
        gateway, address = (f"10.{NUMBER}.{third}.{fourth + host}" for host in (1, 2))
        name, link = self._names(index)
        await _ip(
            f"netns add {name}",
            f"link add {link} type veth peer name eth0 netns {name}",
            f"addr add {gateway}/30 dev {link}",
            f"link set {link} up",
        )
        await _ip(
            "link set lo up",
            f"addr add {address}/30 dev eth0",
            "link set eth0 up",
            f"route add default via {gateway}",
            netns=name,
        )
        return Attachment(Path("/run/netns") / name, address, gateway)

    async def detach(self, machine: str, index: int) -> None:
        name, link = self._names(index)
        if (Path("/sys/class/net") / link).exists():
            await _ip(f"link del {link}")
        if (Path("/run/netns") / name).exists():
            await _ip(f"netns del {name}")

    async def cut_off(self, machine: str, index: int) -> None:
        """These links lead to the host alone: there is no outside to cut off."""

    async def readmit(self, index: int) -> None:
        """See `cut_off`."""

    def _names(self, index: int) -> tuple[str, str]:
        return f"bk-{INSTANCE}-{index}", f"b{INSTANCE}{index}"


async def _ip(*lines: str, netns: str | None = None) -> None:
    argv = ["ip", *(["-n", netns] if netns else []), "-batch", "-"]
    process = await asyncio.create_subprocess_exec(*argv, stdin=asyncio.subprocess.PIPE)
    await process.communicate("\n".join(lines).encode())
    assert process.returncode == 0, lines


def bundle() -> Path:
    """A Python of its own: interpreter, standard library, loader and libraries from this host."""
    tree = CACHE / "bundle"
    if tree.exists():
        return tree
    fresh = tree.with_name(f"bundle.{os.getpid()}")
    (fresh / "py/bin").mkdir(parents=True)
    (fresh / "lib").mkdir()
    shutil.copy("/usr/bin/python3.11", fresh / "py/bin/python3")
    ignore = shutil.ignore_patterns("test", "idlelib", "dist-packages", "site-packages", "config-*", "__pycache__")
    shutil.copytree("/usr/lib/python3.11", fresh / "py/lib/python3.11", ignore=ignore, symlinks=False)
    libraries = set()
    for binary in (fresh / "py/bin/python3", *(fresh / "py/lib/python3.11/lib-dynload").glob("*.so")):
        for word in subprocess.run(["ldd", binary], check=False, capture_output=True, text=True).stdout.split():
            if word.startswith("/"):
                libraries.add(Path(word))
    for library in libraries:
        name = "ld.so" if library.name.startswith("ld-linux") else library.name
        shutil.copy(library, fresh / "lib" / name)
    subprocess.run([sys.executable, "-m", "compileall", "-q", fresh / "py/lib/python3.11"], check=False)
    fresh.rename(tree)
    return tree


def guest() -> Guest:
    tree = bundle()
    for script in ("responder.py", "attacks.py"):
        shutil.copy(Path(__file__).with_name(script), tree / script)
    at = "/.boxkeep/guest"
    argv = (f"{at}/lib/ld.so", "--library-path", f"{at}/lib", "--argv0", f"{at}/py/bin/python3")
    return Guest(tree, (*argv, f"{at}/py/bin/python3", "-I", "-S", "-B", f"{at}/responder.py"))


def _binary(name: str) -> Path:
    found = runsc_binary() if name == "runsc" else shutil.which(name)
    assert found, f"these tests run the real {name}, and it is not to be had"
    return Path(found)


class Room:
    """An instance of the body below `directory`."""

    def __init__(self, directory: Path, first_index: int = 1, disks: str = "pool") -> None:
        self._first_index = first_index
        self.lib = directory / "lib"
        self.run = directory / "run"
        self.space = MountSpace(self.run)
        self.disks = Disks(self._volume(disks))
        self.cgroups = Cgroups(layout(Path("/proc/mounts").read_text()), f"boxkeep-{INSTANCE}")

    def open(self) -> None:
        self.space.enter()
        self.disks.open()
        self.cgroups.open(8 * GIB)
        self.image = self._image()
        self.links = DirectLinks()
        found = [find_runc(_binary("runc"), self.run), find_runsc(_binary("runsc"), self.run)]
        self.runtimes = {runtime.isolation: runtime for runtime in map(asyncio.run, found) if runtime}
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        self.parts = Parts(
            disks=self.disks,
            cgroups=self.cgroups,
            network=self.links,
            addresses=Addresses(self._first_index),
            runtimes=self.runtimes,
            guest=guest(),
            host=Host(open_files=hard, swap_accounting=True),
        )
        self.machines = Machines(self.lib, self.run, self.parts)
        self.machines.open()

    def traces(self) -> dict[str, set[str]]:
        """Everything that machines could leave behind, by kind."""
        cgroups = (Path(found) for found, _, _ in os.walk("/sys/fs/cgroup") if f"boxkeep-{INSTANCE}/" in found)
        links = subprocess.run(["ip", "-o", "link"], check=True, capture_output=True, text=True).stdout
        loops = subprocess.run(["losetup", "-a"], check=True, capture_output=True, text=True).stdout
        processes = subprocess.run(["ps", "-eo", "args="], check=True, capture_output=True, text=True).stdout
        bodies = self.run / "machines"
        return {
            "mounts": {entry.target for entry in mounts() if entry.target.startswith(str(self.run))},
            "netns": {path.name for path in Path("/run/netns").glob(f"bk-{INSTANCE}-*")},
            "links": {line for line in links.splitlines() if f" b{INSTANCE}" in line},
            "cgroups": {str(path) for path in cgroups},
            "disks": set(self.disks.machines()),
            "bodies": {path.name for path in bodies.iterdir()} if bodies.exists() else set(),
            "records": {path.name for path in (self.lib / "machines").glob("*")},
            "runtimes": {str(path) for runtime in self.runtimes.values() for path in runtime.root.glob("*")},
            "loops": {line for line in loops.splitlines() if str(self.lib) in line},
            "processes": {line for line in processes.splitlines() if str(self.run) in line},
        }

    def close(self) -> None:
        self.cgroups.close()
        self.disks.volume.close()
        self.space.leave()
        self.space.destroy()

    def spec(self, isolation: Isolation = "runc", **ceilings: int) -> MachineSpec:
        limits = Ceilings(memory_bytes=512 << 20, cpus=2.0, pids=256, disk_bytes=GIB)
        wanted = replace(limits, **ceilings)
        return MachineSpec(new_id(), isolation, self.image, wanted, "box", secrets.token_hex(32))

    def _volume(self, kind: str) -> Volume:
        if kind == "pool":
            return BtrfsPool(self.lib / "pool.img", self.run / "pool", 8 * GIB, 8 * GIB)
        return PlainDirectory(self.lib / "disks", self.run / "pool")

    def _image(self) -> Image:
        tree = self.disks.images / "base"
        if not tree.exists():
            self.disks.volume.create(tree)
            subprocess.run(["cp", "-a", f"{base_tree()}/.", tree], check=True)
        return Image("base", "base", tree)


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    """Wait until `condition` holds."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)


async def ask(address: str, *argv: str) -> tuple[int, str]:
    """Run `argv` inside through the responder: its exit code and what it said."""
    return await call(address, "run", argv)


async def call(address: str, *words: object) -> tuple[int, str]:
    """Ask the responder for one of its operations."""
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection(address, 7071)
        writer.write(json.dumps(words).encode() + b"\n")
        try:
            answer = json.loads(await reader.read())
        finally:
            writer.close()
    return answer["code"], answer["said"]
