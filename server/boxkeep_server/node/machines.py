"""Whole machines: started from parts, destroyed without a trace from whatever state they are in, and found again."""

import asyncio
import contextlib
import itertools
import json
import logging
import stat
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from boxkeep_server.model.ids import is_id
from boxkeep_server.model.images import software_of
from boxkeep_server.node import oci, overlays, processes, syscalls
from boxkeep_server.node.cgroups import Usage
from boxkeep_server.node.idmap import first_uid
from boxkeep_server.node.interior import furnish, keep_tmp_on_disk, make_directories, write_file
from boxkeep_server.node.overlays import Body
from boxkeep_server.node.parts import Attached, MachineSpec, MemoryImage, Parts
from boxkeep_server.node.records import Machine, Records
from boxkeep_server.node.runtimes import Runtime
from boxkeep_server.node.tails import Tail, read_tails

_log = logging.getLogger(__name__)

_GUEST_TIMEOUT_S: Final = 20.0
_GUEST_POLL_S: Final = 0.002
_FREEZE_TIMEOUT_S: Final = 5.0
_FREEZE_ATTEMPTS: Final = 50
_SETTLED_S: Final = 600.0
_LAST_WORDS_BYTES: Final = 2048
_RESTING_SLACK_NS: Final = 50_000_000
_ROUSED_SLACK_NS: Final = 2_000_000
"""How late timers within a runsc machine may be. gVisor's kernel sets itself one of 0.4 ms for as long as it lives,
which costs an idle machine four percent of a processor; with 2 ms it is half of that, with 50 ms a tenth."""


class BootFailed(Exception):
    """A machine was made and its guest does not answer; the sentence says what is known."""


class Machines:
    """The machines of one node, to be used from inside its mount space.

    Everything of a machine carries its id and nothing of it is kept in memory, so any process may go on where another
    was killed. Calls for one machine must not overlap; calls for different ones may.
    """

    def __init__(self, lib: Path, run: Path, parts: Parts) -> None:
        self._records = Records(lib / "machines")
        self._bodies = run / "machines"
        self._parts = parts

    def open(self) -> None:
        """Have the directory that bodies are mounted in. May be repeated.

        Raises:
            PermissionError: a machine's own uids could not reach it, as runc needs.
        """
        self._bodies.mkdir(parents=True, exist_ok=True)
        self._bodies.chmod(0o711)
        closed = [path for path in (self._bodies, *self._bodies.parents) if not path.stat().st_mode & stat.S_IXOTH]
        if closed:
            raise PermissionError(f"other accounts must be able to pass through {closed[0]} (mode 0711)")

    async def start(self, spec: MachineSpec) -> Machine:
        """Make a machine, of its own address, and answer when its guest listens.

        One that goes on from memory is opened by the id and secret that its guest had then; from one origin any number
        of machines may go on.

        Raises:
            BootFailed: its guest has ended.
            TimeoutError: its guest does not answer in time.
            RuntimeFailed, OSError: it could not be made, or its memory cannot be had again on this host.
            After any of them, what there is of it waits for `destroy`.
        """
        laps = [time.perf_counter()]
        machine = self._new_record(spec)
        self._records.write(machine)
        attached = await self._place(spec, machine)
        laps.append(time.perf_counter())
        machine = replace(machine, address=attached.address, gateway=attached.gateway, netns=str(attached.netns_path))
        await asyncio.to_thread(self._make_body, spec, machine, attached)
        laps.append(time.perf_counter())
        machine = await self._run(machine, _memory(spec))
        laps.append(time.perf_counter())
        await self._wait_for_guest(machine)
        await self._allow_slack(machine, _RESTING_SLACK_NS)
        await self._put_guest_first(machine)
        laps.append(time.perf_counter())
        _log.info("machine %s is up: %s", machine.id, told(laps, ("disk and network", "body", "runtime", "guest")))
        return machine

    async def _place(self, spec: MachineSpec, machine: Machine) -> Attached:
        """A machine's network and disk, made at the same time. Where the disk fails the network has been made or has
        failed too, before anybody takes away what there is."""
        attaching = asyncio.ensure_future(self._parts.network.attach(spec.id, machine.index))
        try:
            await asyncio.to_thread(self._make_disk, spec, machine)
        except BaseException:
            await asyncio.gather(attaching, return_exceptions=True)
            raise
        return await attaching

    async def readmit(self, machine: Machine) -> None:
        """Let a machine open connections again after a `write_memory` that failed, of this process or one before.

        Raises:
            CommandFailed: it opens none yet.
        """
        await self._parts.network.readmit(machine.index)

    async def halt(self, machine: Machine) -> None:
        """Have nothing run in a runsc machine, of which `write_memory` may then be asked. May be repeated.

        Its connections to the outside are reset before, so that who has one sees an ordinary loss: gVisor wakes who
        waits for one that it restores for ever after, and cannot write down at all one that is being opened. Nobody
        reaches it anew until `readmit`.

        Raises:
            RuntimeFailed: nothing of it was halted.
        """
        await self._parts.network.cut_off(machine.id, machine.index)
        try:
            await self._runtime(machine).halt(machine.id)
        finally:
            processes.reap_orphans()

    async def write_memory(self, machine: Machine, directory: Path, mark: Path) -> None:
        """Write the memory of a halted runsc machine into `directory`; it stays halted. The file `mark` then names this
        boot of the host: the word that all is there, though not yet on the device, for whoever goes on after this
        process.

        Raises:
            RuntimeFailed, TimeoutError: it cannot be written. gVisor refuses while a program holds a file open that was
                deleted or replaced on the disk.
        """
        try:
            await self._runtime(machine).write_memory(machine.id, directory, mark, boot_id())
        finally:
            processes.reap_orphans()

    async def go_on(self, machine: Machine) -> None:
        """Take back `halt`.

        Raises:
            RuntimeFailed: it stands still yet.
        """
        try:
            await self._runtime(machine).go_on(machine.id)
        finally:
            processes.reap_orphans()

    async def rescue(self, machine: Machine) -> None:
        """Take back whatever a process before this one did of `halt` and `freeze`. May be repeated.

        Raises:
            RuntimeFailed, TimeoutError: it stands still yet.
        """
        await self.settled(machine.id)
        self.thaw(machine.id)
        if machine.isolation == "runsc" and await self._runtime(machine).halted(machine.id):
            await self.go_on(machine)
        processes.reap_orphans()

    async def settled(self, machine: str) -> None:
        """Wait until no command of an earlier process's is at work on a machine any more that stops or keeps it.

        Raises:
            TimeoutError
        """
        binaries = {str(runtime.binary) for runtime in self._parts.runtimes.values()}
        async with asyncio.timeout(_SETTLED_S):
            for verb in ("pause", "checkpoint", "resume"):
                for pid in await asyncio.to_thread(processes.at_work_on, machine, binaries, verb):
                    if (started := processes.start_time(pid)) is not None:
                        await processes.ended(pid, started)

    async def stop(self, machine: str) -> None:
        """End every process of a machine; its disk, place and records stay. May be repeated.

        Raises:
            TimeoutError: a process of it cannot be killed.
        """
        await asyncio.to_thread(self._end_processes, machine)

    async def destroy(self, machine: str) -> dict[str, Tail]:
        """Remove a machine: processes, cgroup, mounts, network, disk. May be repeated, and begun from any state.

        Answers what its unfinished commands wrote last. While a call like `start` is under way in a process that
        was killed, its commands are ended first.

        Raises:
            TimeoutError: a process of it cannot be killed.
        """
        record = self._records.read(machine)
        await asyncio.to_thread(self._end_processes, machine)
        tails, *_ = await asyncio.gather(asyncio.to_thread(self._remove_matter, machine), self._detach(machine, record))
        for runtime in self._parts.runtimes.values():
            runtime.forget(machine)
        self._records.remove(machine)
        if record is not None:
            self._parts.addresses.rest(record.index)
        processes.reap_orphans()
        return tails

    def found(self) -> list[str]:
        """The ids of all machines that there is any trace of, be it in files, cgroups, disks or processes' state."""
        parts = self._parts
        found = {*self._records.machines(), *parts.cgroups.machines(), *parts.disks.machines()}
        for runtime in parts.runtimes.values():
            found.update(runtime.machines())
        with contextlib.suppress(FileNotFoundError):
            found.update(entry.name for entry in self._bodies.iterdir() if is_id(entry.name))
        return sorted(found)

    def read(self, machine: str) -> Machine | None:
        """What is written of a machine; None when nothing is."""
        return self._records.read(machine)

    def alive(self, machine: Machine) -> bool:
        """Whether a machine's first process runs, on this boot of the host."""
        return (
            machine.pid is not None
            and machine.started is not None
            and machine.boot_id == boot_id()
            and processes.is_alive(machine.pid, machine.started)
        )

    async def exited(self, machine: Machine) -> None:
        """Wait until a machine's first process has ended, this process's child or not."""
        if machine.pid is not None and machine.started is not None and machine.boot_id == boot_id():
            await processes.ended(machine.pid, machine.started)
        processes.reap_orphans()

    def usage(self, machine: str) -> Usage:
        """What a machine uses of memory and processor, and how often the kernel killed in it.

        Raises:
            FileNotFoundError: there is nothing of it that could use anything.
        """
        return self._parts.cgroups.usage(machine)

    async def freeze(self, machine: str) -> None:
        """Stop everything in a machine; answers when it has stopped. May be repeated.

        Raises:
            TimeoutError: it does not stop within 5 s, and is let go on.
        """
        cgroups = self._parts.cgroups
        try:
            async with asyncio.timeout(_FREEZE_TIMEOUT_S):
                for attempt in itertools.count(1):
                    # In v1 a process that is just being born can hold it up until it is asked again, or let go first.
                    cgroups.freeze(machine, attempt % _FREEZE_ATTEMPTS != 0)
                    if cgroups.frozen(machine):
                        return
                    await asyncio.sleep(_GUEST_POLL_S)
        except TimeoutError:
            cgroups.freeze(machine, False)
            raise

    def thaw(self, machine: str) -> None:
        """Let a frozen machine go on. May be repeated."""
        self._parts.cgroups.freeze(machine, False)

    async def rouse(self, machine: Machine) -> None:
        """A machine that has rested is to be used from now on. May be repeated."""
        await self._allow_slack(machine, _ROUSED_SLACK_NS)

    async def rename(self, machine: Machine, hostname: str) -> None:
        """Give a running machine another host name, where its guest cannot: under runc."""
        if machine.isolation == "runc" and machine.pid is not None:
            await asyncio.to_thread(_set_hostname, machine.pid, hostname)

    def _new_record(self, spec: MachineSpec) -> Machine:
        memory = _memory(spec)
        return Machine(
            id=spec.id,
            born_as=memory.born_as if memory else spec.id,
            isolation=spec.isolation,
            image=spec.image.name,
            digest=spec.image.digest,
            index=self._parts.addresses.take(spec.id),
            address="",
            port=oci.PORT,
            secret=memory.secret if memory else spec.secret,
            epoch=memory.epoch if memory else 0,
            boot_id=boot_id(),
            netns="",
        )

    def _make_disk(self, spec: MachineSpec, machine: Machine) -> None:
        disks, limit = self._parts.disks, spec.ceilings.disk_bytes
        disk = disks.copy(spec.origin.disk, machine.id, limit) if spec.origin else disks.create(machine.id, limit)
        if _memory(spec) is None:
            boot = oci.boot_file(machine.id, machine.secret, machine.isolation, spec.ceilings)
            write_file(disk, "boot.json", json.dumps(boot).encode(), 0o400)
            make_directories(disk / "upper", oci.DIRECTORIES)
            write_file(disk / "upper", oci.BOOT_FILE, b"")
        if machine.isolation == "runsc":
            keep_tmp_on_disk(disk / "upper")
        overlays.lay_layers(self._body(machine.id), spec.image.root, disk, self._shift(machine))

    def _make_body(self, spec: MachineSpec, machine: Machine, attached: Attached) -> None:
        body, parts, memory = self._body(machine.id), self._parts, _memory(spec)
        if memory is None:
            fresh = spec.origin is None
            furnish(parts.disks.path(machine.id) / "upper", machine.id, spec.hostname, attached.gateway, fresh)
        overlays.mount_root(body, self._shift(machine))
        runc = machine.isolation == "runc"
        if runc:
            overlays.mount_sys(body, attached.netns_path)
            parts.cgroups.bound_sockets(machine.id, spec.ceilings.memory_bytes)
        layout = oci.Layout(
            root=body.root,
            disk=body.disk,
            sys=body.sys if runc else None,
            guest=memory.guest if memory else parts.guest.tree,
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
            first_uid=self._shift(machine),
            cells="browser" in software_of(machine.image),
        )
        (body.directory / "config.json").write_text(json.dumps(config))

    async def _run(self, machine: Machine, memory: MemoryImage | None) -> Machine:
        bundle, runtime = self._body(machine.id).directory, self._runtime(machine)
        pid_file = bundle / "pid"
        with self._guest_log(machine.id).open("ab") as output:
            if memory is None:
                await runtime.run(machine.id, bundle, pid_file, output.fileno())
            else:
                await runtime.restore(machine.id, bundle, pid_file, memory.directory, output.fileno())
        pid = int(pid_file.read_text())
        started = processes.start_time(pid)
        if started is None:
            raise BootFailed(self._last_words(machine.id))
        machine = machine.running_as(pid, started)
        self._records.write(machine)
        return machine

    async def _wait_for_guest(self, machine: Machine) -> None:
        try:
            async with asyncio.timeout(_GUEST_TIMEOUT_S):
                while not await _listens(machine.address, machine.port):
                    if not self.alive(machine):
                        raise BootFailed(f"The guest has ended: {self._last_words(machine.id)}")
                    await asyncio.sleep(_GUEST_POLL_S)
        except TimeoutError:
            raise TimeoutError(f"The guest does not answer: {self._last_words(machine.id)}") from None

    @staticmethod
    async def _allow_slack(machine: Machine, nanoseconds: int) -> None:
        if machine.isolation == "runsc" and machine.pid is not None:
            await asyncio.to_thread(processes.allow_slack, machine.pid, nanoseconds)

    @staticmethod
    async def _put_guest_first(machine: Machine) -> None:
        """A thousand processes that spin do not keep it from ending them. gVisor, one process, has other means."""
        if machine.isolation == "runc" and machine.pid is not None:
            await asyncio.to_thread(processes.put_first, machine.pid)

    def _end_processes(self, machine: str) -> None:
        """Blocking. Commands of the runtimes first, so that none makes anew what is being removed."""
        parts = self._parts
        binaries = {str(runtime.binary) for runtime in parts.runtimes.values()}
        deadline = time.monotonic() + _FREEZE_TIMEOUT_S
        parts.cgroups.kill(machine)
        while at_work := processes.at_work_on(machine, binaries):
            _kill_all(at_work)
            processes.reap_orphans()
            if time.monotonic() > deadline:
                raise TimeoutError(f"the processes of machine {machine} do not go: {at_work}")
            time.sleep(_GUEST_POLL_S)
        parts.cgroups.remove(machine)
        processes.reap_orphans()

    def _remove_matter(self, machine: str) -> dict[str, Tail]:
        tails = read_tails(self._parts.disks.path(machine) / "log")
        overlays.remove_body(self._body(machine))
        self._parts.disks.delete(machine)
        return tails

    async def _detach(self, machine: str, record: Machine | None) -> None:
        if record is not None:
            await self._parts.network.detach(machine, record.index)

    def _last_words(self, machine: str) -> str:
        with contextlib.suppress(FileNotFoundError):
            return self._guest_log(machine).read_bytes()[-_LAST_WORDS_BYTES:].decode(errors="replace")
        return ""

    def _guest_log(self, machine: str) -> Path:
        """What the guest itself writes: within the disk's limit, but where nothing inside sees it."""
        return self._parts.disks.path(machine) / "guest.log"

    def _runtime(self, machine: Machine) -> Runtime:
        return self._parts.runtimes[machine.isolation]

    def _shift(self, machine: Machine) -> int | None:
        return first_uid(machine.index) if machine.isolation == "runc" else None

    def _body(self, machine: str) -> Body:
        return Body(self._bodies / machine)


def boot_id() -> str:
    """The name of this boot of the host."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _memory(spec: MachineSpec) -> MemoryImage | None:
    return spec.origin.memory if spec.origin else None


def _kill_all(pids: Sequence[int]) -> None:
    for pid in pids:
        processes.kill(pid, processes.start_time(pid))


def _set_hostname(pid: int, hostname: str) -> None:
    with syscalls.inside(Path("/proc") / str(pid) / "ns" / "uts", syscalls.CLONE_NEWUTS):
        syscalls.set_hostname(hostname)


async def _listens(address: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(address, port)
    except OSError:
        return False
    writer.close()
    return True


def told(laps: Sequence[float], names: Sequence[str]) -> str:
    """What took how long, for the log: the time between each two of `laps` (seconds) by its name."""
    return ", ".join(
        f"{name} {(after - before) * 1000:.0f} ms" for name, before, after in zip(names, laps, laps[1:], strict=False)
    )
