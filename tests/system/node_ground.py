"""A node process for tests: the real machine layer on links straight from the host, with a very small image."""

import asyncio
import contextlib
import json
import logging
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from boxkeep_server.model.ids import is_id
from boxkeep_server.model.images import Layers
from boxkeep_server.model.node_api import LeakCount, Leaks, NetworkWish
from boxkeep_server.node import oci
from boxkeep_server.node.bases import Bases
from boxkeep_server.node.bundle import Bundle, build_bundle
from boxkeep_server.node.daemon import Ground, run_on, take_down
from boxkeep_server.node.disks import Disks
from boxkeep_server.node.images import Images
from boxkeep_server.node.parts import Guest
from boxkeep_server.node.records import Records
from boxkeep_server.settings import Settings, read_settings
from tests.instances import OWN
from tests.layered import add_layer, publish

INSTANCE, NUMBER = OWN.beside("n").name, OWN.beside("n").number
GUEST = Path(__file__).parent.parent.parent / "guest" / "boxkeep_guest"
PROGRAMS = ("true", "sh", "sleep", "cat", "echo", "env", "hostname", "dd", "mkdir", "mkfifo", "chmod", "mv", "ln", "rm")
PROGRAMS += ("truncate", "stat", "sha256sum")


@dataclass(frozen=True)
class Place:
    netns_path: Path
    address: str
    gateway: str


class Addresses:
    """Numbers of places, learnt from the records of the machines that have them."""

    def __init__(self, lib: Path) -> None:
        records = Records(lib / "machines")
        found = [records.read(machine) for machine in records.machines()]
        self._taken = {one.index for one in found if one is not None}

    def take(self, machine: str) -> int:
        index = next(number for number in range(1, 16384) if number not in self._taken)
        self._taken.add(index)
        return index

    def rest(self, index: int) -> None:
        self._taken.discard(index)


class DirectLinks:
    """A veth from the host straight into each machine's namespace."""

    def __init__(self, lib: Path) -> None:
        self._told = lib / "egress"
        self._told.mkdir(exist_ok=True)

    async def attach(self, machine: str, index: int) -> Place:
        third, fourth = divmod(index * 4, 256)
        gateway, address = (f"10.{NUMBER}.{third}.{fourth + host}" for host in (1, 2))
        name, link = f"bk-{INSTANCE}-{index}", f"b{INSTANCE}{index}"
        await _ip(
            f"netns add {name}",
            f"link add {link} type veth peer name eth0 netns {name}",
            f"addr add {gateway}/30 dev {link}",
            f"link set {link} up",
        )
        inside = ("link set lo up", f"addr add {address}/30 dev eth0", "link set eth0 up")
        await _ip(*inside, f"route add default via {gateway}", netns=name)
        return Place(Path("/run/netns") / name, address, gateway)

    async def detach(self, machine: str, index: int) -> None:
        name, link = f"bk-{INSTANCE}-{index}", f"b{INSTANCE}{index}"
        if (Path("/sys/class/net") / link).exists():
            with contextlib.suppress(AssertionError):  # it may go by itself with its other end
                await _ip(f"link del {link}")
        if (Path("/run/netns") / name).exists():
            await _ip(f"netns del {name}")

    async def cut_off(self, machine: str, index: int) -> None:
        """These links lead to the host alone: there is no outside to cut off."""

    async def readmit(self, index: int) -> None:
        """See `cut_off`."""

    async def set_egress(self, machine: str, index: int, wish: NetworkWish) -> None:
        (self._told / machine).write_text(wish.model_dump_json())


async def _ip(*lines: str, netns: str | None = None) -> None:
    argv = ["ip", *(["-n", netns] if netns else []), "-batch", "-"]
    process = await asyncio.create_subprocess_exec(*argv, stdin=asyncio.subprocess.PIPE)
    await process.communicate("\n".join(lines).encode())
    assert process.returncode == 0, lines


def seen_in_kernel() -> dict[str, tuple[str, ...]]:
    """What of this instance the kernel has, by kind."""
    netns = Path("/run/netns")
    links = Path("/sys/class/net").iterdir()
    mounts = Path("/proc/mounts").read_text().splitlines()
    cgroups = Path("/sys/fs/cgroup").glob(f"*/boxkeep-{INSTANCE}/*")
    return {
        "netns": tuple(one.name for one in netns.iterdir() if f"-{INSTANCE}-" in one.name) if netns.exists() else (),
        "veths": tuple(one.name for one in links if one.name.startswith(f"b{INSTANCE}")),
        "mounts": tuple(line for line in mounts if f"/{INSTANCE}/machines/" in line),
        "cgroups": tuple(str(one) for one in cgroups if is_id(one.name)),
    }


async def lay_ground(settings: Settings, disks: Disks) -> Ground:
    """Links, image and the real guest's bundle."""
    bundles = Path(sys.argv[2])
    bundle = _bundle(bundles)
    archives = settings.lib / "images"
    _tiny_image(archives, bundles, sys.argv[3])
    images = Images(disks.volume, disks.images, archives)
    images.refresh()

    async def leaks(owned: set[str]) -> Leaks:
        strays = sorted({*disks.machines(), *Records(settings.lib / "machines").machines()} - owned)
        return Leaks(leaks=(LeakCount(kind="machines", items=tuple(strays)),))

    return Ground(
        links=DirectLinks(settings.lib),
        addresses=Addresses(settings.lib),
        images=images.all,
        guest=Guest(bundle.path, tuple(bundle.command(oci.GUEST))),
        guest_digest=bundle.digest,
        bases=Bases(images, archives, bundles),
        leaks=leaks,
        close=_nothing,
    )


async def _nothing() -> None:
    """Direct links go with their machines; there is no more of them."""


def _bundle(bundles: Path) -> Bundle:
    """The guest's bundle, built by the first node process of a test run."""
    for path in bundles.glob("[0-9a-f]" * 64):
        return Bundle(path.name, path)
    return build_bundle(bundles, GUEST)


def _tiny_image(archives: Path, kept: Path, flavour: str) -> None:
    """An image of some programs and their libraries, and over it a layer that is another for another flavour; both have
    files that the other has not."""
    archives.mkdir(exist_ok=True)
    made = kept / f"tiny-{flavour}"
    if not (made / "base.json").exists():
        made.mkdir(exist_ok=True)
        lowest = add_layer(made, _tiny_tree)
        flavoured = add_layer(made, lambda tree: _flavour(tree, flavour), removed=[b"etc/plain"])
        publish(made, "base", Layers((lowest, flavoured)))
    shutil.copytree(made, archives, dirs_exist_ok=True)


def _flavour(tree: Path, flavour: str) -> None:
    (tree / "etc").mkdir()
    (tree / "etc/flavour").write_text(flavour)


def _tiny_tree(fresh: Path) -> None:
    for directory in ("bin", "etc", "tmp", "root", "usr/bin"):
        (fresh / directory).mkdir(parents=True)
    (fresh / "etc/plain").write_text("not to be seen")
    (fresh / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (fresh / "etc/group").write_text("root:x:0:\n")
    for program in PROGRAMS:
        binary = Path(shutil.which(program) or f"/bin/{program}").resolve()
        shutil.copy(binary, fresh / "bin" / program)
        said = subprocess.run(["ldd", binary], check=True, capture_output=True, text=True).stdout
        for library in (word for word in said.split() if word.startswith("/")):
            (fresh / library[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, fresh / library[1:])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    wanted = read_settings(None, json.loads(sys.argv[1]))
    if sys.argv[4] == "up":
        run_on(wanted, lay_ground)
    else:
        json.dump(take_down(wanted, lay_ground), sys.stdout)
