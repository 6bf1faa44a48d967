"""The machine layer made real: machines of the runtimes, their place in the network, and their guests."""

import asyncio
import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from boxkeep_server.guestwire import GuestAddress, GuestError, GuestPool, GuestRefused, GuestTimeout
from boxkeep_server.model.ids import new_id
from boxkeep_server.model.node_api import NetworkWish
from boxkeep_server.node import durable
from boxkeep_server.node.addresses import NoAddress
from boxkeep_server.node.cgroups import Cgroups
from boxkeep_server.node.disks import Disks
from boxkeep_server.node.interior import machine_id
from boxkeep_server.node.layer import Birth, Busy, LastWords, MachineFailed, MachineLate, NoSpace, Tenancy, Use
from boxkeep_server.node.machines import BootFailed, Machines
from boxkeep_server.node.netns import CommandFailed
from boxkeep_server.node.oci import Ceilings
from boxkeep_server.node.parts import MachineSpec
from boxkeep_server.node.records import Machine
from boxkeep_server.node.runtimes import RuntimeFailed

_HAND_OVER_S: Final = 5.0
_RESUME_S: Final = 20.0
_FLUSH_S: Final = 20.0
_REHEARSAL_MS: Final = 10_000


class Egress(Protocol):
    """What the network can be told of a machine."""

    async def set_egress(self, machine: str, index: int, wish: NetworkWish) -> None:
        """Open what a machine may reach, in place of what it might before. May be repeated."""


@dataclass(frozen=True)
class Bodies:
    """Makes, hands over, watches and removes real machines; see `Maker` and `Observer`."""

    machines: Machines
    disks: Disks
    cgroups: Cgroups
    egress: Egress
    guests: GuestPool
    ceilings: Ceilings

    async def start(self, birth: Birth) -> Machine:
        """See `Maker.start`."""
        spec = MachineSpec(
            birth.machine, birth.isolation, birth.image, self.ceilings, birth.hostname, birth.secret, birth.origin
        )
        with _failing(f"machine {birth.machine} did not start"):
            return await self.machines.start(spec)

    async def rehearse(self, machine: Machine) -> None:
        """See `Maker.rehearse`."""
        address, process = _way_before(machine), new_id()
        start = {"op": "process.start", "id": process, "command": "true", "args": [], "cwd": "/"}
        with _failing(f"machine {machine.id} could not rehearse"):
            try:
                await self.guests.call(address, start)
                await self.guests.call(address, {"op": "process.wait", "id": process, "timeoutMs": _REHEARSAL_MS})
            finally:
                self.guests.forget(address)

    async def hand_over(self, machine: Machine, tenancy: Tenancy) -> None:
        """See `Maker.hand_over`. The network first: nothing of the tenant's runs before it is as wished."""
        with _failing(f"machine {machine.id} could not be handed over"):
            await asyncio.gather(
                self.egress.set_egress(machine.id, machine.index, tenancy.network),
                self.machines.rename(machine, tenancy.hostname),
                self.machines.rouse(machine),
            )
            await self._tell_guest(machine, tenancy)

    async def still(self, machine: Machine, epoch: int, secret: str, *, if_idle: bool) -> bool:
        """See `Maker.still`. No connection to the guest stays, for none would live."""
        answer = await self._gate(machine, epoch, secret, {"closed": True, "part": True, "idle": if_idle})
        return answer.get("lasting") is not False

    async def flush(self, machine: Machine, epoch: int, secret: str) -> None:
        """See `Maker.flush`. Under runc the host's kernel holds the files, and a snapshot has all of them."""
        if machine.isolation == "runsc":
            with _failing(f"machine {machine.id} does not flush its files"):
                await self.guests.call(_address(machine, epoch, secret), {"op": "flush"}, timeout=_FLUSH_S)

    async def unstill(self, machine: Machine, epoch: int, secret: str) -> None:
        """See `Maker.unstill`."""
        with _failing(f"machine {machine.id} does not go on"):
            try:
                await self.machines.readmit(machine)
            finally:
                await self._gate(machine, epoch, secret, {"closed": False})

    async def _gate(self, machine: Machine, epoch: int, secret: str, how: dict[str, bool]) -> dict[str, Any]:
        address = _address(machine, epoch, secret)
        with _failing(f"machine {machine.id} does not hold its gate"):
            try:
                return await self.guests.call(address, {"op": "gate", **how}, timeout=_HAND_OVER_S)
            except GuestRefused as refused:
                if refused.code == "busy":
                    raise Busy("Something runs in the sandbox") from refused
                raise
            finally:
                self.guests.forget(address)

    async def end(self, machine: str) -> None:
        """See `Maker.end`."""
        await asyncio.to_thread(self.cgroups.kill, machine)

    async def destroy(self, machine: str) -> dict[str, LastWords]:
        """See `Maker.destroy`."""
        with _failing(f"machine {machine} could not be removed"):
            tails = await self.machines.destroy(machine)
        return {process: LastWords(tail.stdout, tail.stderr) for process, tail in tails.items()}

    def found(self) -> list[str]:
        """See `Observer.found`."""
        return self.machines.found()

    def read(self, machine: str) -> Machine | None:
        """See `Observer.read`."""
        return self.machines.read(machine)

    def has_disk(self, machine: str) -> bool:
        """See `Observer.has_disk`."""
        return self.disks.path(machine).exists()

    def alive(self, machine: Machine) -> bool:
        """See `Observer.alive`."""
        return self.machines.alive(machine)

    async def exited(self, machine: Machine) -> None:
        """See `Observer.exited`."""
        await self.machines.exited(machine)

    def use(self, machine: str) -> Use | None:
        """See `Observer.use`."""
        try:
            usage = self.machines.usage(machine)
        except OSError:
            return None  # without a cgroup, or with one that goes at this moment
        return Use(usage.memory_bytes, usage.cpu_ms, usage.oom_kills)

    async def _tell_guest(self, machine: Machine, tenancy: Tenancy) -> None:
        request = {
            "op": "claim",
            "epoch": tenancy.epoch,
            "secret": tenancy.secret,
            "hostname": tenancy.hostname,
            "env": dict(tenancy.env),
            "resumed": tenancy.resumed,
            "nameserver": machine.gateway,
            "machine": machine.id,
            "forkedAs": machine_id(machine.id) if tenancy.forked else None,
        }
        before = _way_before(machine)
        after = _address(machine, tenancy.epoch, tenancy.secret)
        timeout = _RESUME_S if tenancy.resumed else _HAND_OVER_S
        try:
            await self.guests.call(before, request, timeout=timeout)
        except GuestRefused as refused:
            if refused.code != "unauthorised":
                raise
            # A process before this one was killed after it had told the guest.
            await self.guests.call(after, request, timeout=timeout)
        finally:
            self.guests.forget(before)
            self.guests.forget(after)


def _address(machine: Machine, epoch: int, secret: str) -> GuestAddress:
    return GuestAddress(machine.address, machine.port, machine.id, epoch, bytes.fromhex(secret))


def _way_before(machine: Machine) -> GuestAddress:
    """The way to the guest of a machine that nobody has claimed yet."""
    return GuestAddress(machine.address, machine.port, machine.born_as, machine.epoch, bytes.fromhex(machine.secret))


@contextlib.contextmanager
def _failing(what: str) -> Iterator[None]:
    try:
        yield
    except MachineFailed:
        raise
    except (TimeoutError, subprocess.TimeoutExpired, GuestTimeout) as error:
        raise MachineLate(f"{what}: {error or type(error).__name__}") from error
    except OSError as error:
        kind = NoSpace if error.errno in durable.FULL else MachineFailed
        raise kind(f"{what}: {error or type(error).__name__}") from error
    except (
        BootFailed,
        RuntimeFailed,
        CommandFailed,
        NoAddress,
        GuestError,
        subprocess.SubprocessError,
    ) as error:
        raise MachineFailed(f"{what}: {error or type(error).__name__}") from error
