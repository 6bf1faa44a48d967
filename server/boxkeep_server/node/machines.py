"""Whole machines: started from parts, destroyed without a trace from whatever state they are in, and found again."""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from boxkeep_server.model.node_api import Isolation
from boxkeep_server.node import oci, overlays, processes
from boxkeep_server.node.cgroups import Cgroups
from boxkeep_server.node.disks import Disks, make_directories, write_file
from boxkeep_server.node.idmap import first_uid
from boxkeep_server.node.overlays import Body
from boxkeep_server.node.records import Machine, Records
from boxkeep_server.node.runtimes import Runtime

_GUEST_TIMEOUT_S: Final = 20.0
_GUEST_POLL_S: Final = 0.002


class BootFailed(Exception):
    """A machine was made and its guest did not answer; the sentence says what is known."""


class Attached(Protocol):
    """A machine's place in the network."""

    @property
    def netns_path(self) -> Path:
        """Its network namespace."""

    @property
    def address(self) -> str:
        """Its IPv4 address."""

    @property
    def gateway(self) -> str:
        """The other end of its link, where its DNS forwarder answers."""


class Network(Protocol):
    """What machines need of the network."""

    async def attach(self, machine: str, index: int) -> Attached:
        """Give a machine its place."""

    async def detach(self, machine: str, index: int) -> None:
        """Take it away. May be repeated."""


class Addresses(Protocol):
    """Numbers of the network's /30s, each lent to one machine at a time."""

    def take(self, machine: str) -> int:
        """Lend a number that is free."""

    def rest(self, index: int) -> None:
        """Take it back."""


class Image(Protocol):
    """A read-only tree that machines begin from."""

    @property
    def name(self) -> str:
        """What users call it."""

    @property
    def digest(self) -> str:
        """What it holds."""

    @property
    def root(self) -> Path:
        """Where it lies in the pool."""


@dataclass(frozen=True)
class Guest:
    """The guest's self-contained tree on the host and the command line that runs it inside, without the boot file."""

    tree: Path
    argv: tuple[str, ...]


@dataclass(frozen=True)
class MachineSpec:
    """A machine wanted."""

    id: str
    isolation: Isolation
    image: Image
    ceilings: oci.Ceilings
    hostname: str


@dataclass(frozen=True)
class Parts:
    """What machines are made of."""

    disks: Disks
    cgroups: Cgroups
    network: Network
    addresses: Addresses
    runtimes: Mapping[Isolation, Runtime]
    guest: Guest
    host: oci.Host


class Machines:
    """The machines of one node. Everything of a machine carries its id; nothing is kept in memory."""

    def __init__(self, lib: Path, run: Path, parts: Parts) -> None:
        self._records = Records(lib / "machines")
        self._bodies = run / "machines"
        self._parts = parts

    async def start(self, spec: MachineSpec) -> Machine:
        """Make a machine and answer when its guest listens.

        Raises:
            BootFailed: it came up wrongly; what there is of it is left for `destroy`.
            RuntimeFailed, OSError: it could not be made; likewise.
        """
        index = self._parts.addresses.take(spec.id)
        machine = Machine(
            id=spec.id,
            born_as=spec.id,
            isolation=spec.isolation,
            image=spec.image.name,
            digest=spec.image.digest,
            index=index,
            address="",
            port=oci.PORT,
            secret=secrets.token_hex(32),
            boot_id=_boot_id(),
            netns="",
        )
        self._records.write(machine)
        attached, _ = await asyncio.gather(
            self._parts.network.attach(spec.id, index), asyncio.to_thread(self._make_disk, spec, machine)
        )
        machine = replace(machine, address=attached.address, netns=str(attached.netns_path))
        await asyncio.to_thread(self._furnish, spec, machine, attached)
        return await self._boot(machine)

    def _make_disk(self, spec: MachineSpec, machine: Machine) -> None:
        disk = self._parts.disks.create(machine.id, spec.ceilings.disk_bytes)
        boot = {
            "machine": machine.id,
            "secret": machine.secret,
            "epoch": 0,
            "listen": ["0.0.0.0", machine.port],  # noqa: S104
            "log": oci.LOG,
            "workspace": oci.WORKSPACE,
            "runtime": machine.isolation,
        }
        write_file(disk, "boot.json", json.dumps(boot).encode(), 0o400)
        self._mount(spec.image.root, machine, disk)

    def _mount(self, image: Path, machine: Machine, disk: Path) -> None:
        make_directories(disk / "upper", oci.DIRECTORIES)
        write_file(disk / "upper", oci.BOOT_FILE, b"")
        body = self._body(machine.id)
        shift = first_uid(machine.index) if machine.isolation == "runc" else None
        overlays.mount_body(body, image, disk, shift)

    def _furnish(self, spec: MachineSpec, machine: Machine, attached: Attached) -> None:
        body = self._body(machine.id)
        runc = machine.isolation == "runc"
        if runc:
            overlays.mount_sys(body, attached.netns_path)
        parts = self._parts
        layout = oci.Layout(
            root=body.root,
            disk=body.disk,
            sys=body.sys if runc else None,
            guest=parts.guest.tree,
            netns=attached.netns_path,
            cgroup=parts.cgroups.path(machine.id),
        )
        config = oci.config(
            isolation=machine.isolation,
            layout=layout,
            ceilings=spec.ceilings,
            host=parts.host,
            hostname=spec.hostname,
            argv=(*parts.guest.argv, oci.BOOT_FILE),
            first_uid=first_uid(machine.index) if runc else None,
        )
        (body.directory / "config.json").write_text(json.dumps(config))

    async def _boot(self, machine: Machine) -> Machine:
        body = self._body(machine.id)
        pid_file = body.directory / "pid"
        output = os.open(
            self._parts.disks.path(machine.id) / "guest.log",
            os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC,
            0o600,
        )
        try:
            runtime = self._parts.runtimes[machine.isolation]
            await runtime.run(machine.id, body.directory, pid_file, output)
        finally:
            os.close(output)
        pid = int(pid_file.read_text())
        started = processes.start_time(pid)
        if started is None:
            raise BootFailed(self._last_words(machine))
        machine = machine.running_as(pid, started)
        self._records.write(machine)
        await self._wait_for_guest(machine)
        return machine

    async def _wait_for_guest(self, machine: Machine) -> None:
        try:
            async with asyncio.timeout(_GUEST_TIMEOUT_S):
                while not await _listens(machine.address, machine.port):
                    if not self.alive(machine):
                        raise BootFailed(self._last_words(machine))
                    await asyncio.sleep(_GUEST_POLL_S)
        except TimeoutError:
            raise BootFailed(f"The guest of {machine.id} did not answer: {self._last_words(machine)}") from None

    def _last_words(self, machine: Machine) -> str:
        try:
            return (self._parts.disks.path(machine.id) / "guest.log").read_bytes()[-2048:].decode(errors="replace")
        except FileNotFoundError:
            return ""

    async def destroy(self, machine: str) -> None:
        """Remove a machine: processes, mounts, network, cgroup, disk. May be repeated, and begun from any state."""
        record = self._records.read(machine)
        parts = self._parts
        body = self._body(machine)
        pids = parts.cgroups.processes(machine)
        parts.cgroups.kill(machine)
        await asyncio.gather(*(runtime.delete(machine) for runtime in parts.runtimes.values()))
        await asyncio.to_thread(parts.cgroups.remove, machine)
        processes.reap(pids)
        await asyncio.to_thread(self._remove_body, body, machine)
        if record is not None:
            await parts.network.detach(machine, record.index)
            parts.addresses.rest(record.index)
        self._records.remove(machine)

    def _remove_body(self, body: Body, machine: str) -> None:
        overlays.unmount_body(body)
        shutil.rmtree(body.directory, ignore_errors=True)
        self._parts.disks.delete(machine)

    def found(self) -> list[str]:
        """The ids of all machines that there is any trace of."""
        parts = self._parts
        found = {*self._records.machines(), *parts.cgroups.machines(), *parts.disks.machines()}
        for runtime in parts.runtimes.values():
            found.update(runtime.machines())
        with contextlib.suppress(FileNotFoundError):
            found.update(entry.name for entry in self._bodies.iterdir())
        return sorted(found)

    def read(self, machine: str) -> Machine | None:
        """What is written of a machine."""
        return self._records.read(machine)

    def alive(self, machine: Machine) -> bool:
        """Whether a machine's first process runs, on this boot of the host."""
        return (
            machine.pid is not None
            and machine.started is not None
            and machine.boot_id == _boot_id()
            and processes.is_alive(machine.pid, machine.started)
        )

    def _body(self, machine: str) -> Body:
        return Body(self._bodies / machine)


async def _listens(address: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(address, port)
    except OSError:
        return False
    writer.close()
    return True


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
