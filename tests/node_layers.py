"""A machine layer in memory as one node process has it, and layers named for their fault."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from boxkeep_server.node.layer import (
    Birth,
    Busy,
    LastWords,
    MachineFailed,
    MachineLate,
    Tenancy,
    Use,
    no_tripwire,
)
from boxkeep_server.node.records import Machine
from tests.node_hosts import Body, Host
from tests.node_keepers import Keeping


class Layer(Keeping):
    """The machine layer as one node process has it. Each step may be the process' last."""

    def __init__(self, host: Host, step: Callable[[str], None] = no_tripwire) -> None:
        self.host = host
        self._step = step
        self.starting: set[str] = set()
        self.most_at_once = 0
        self.started: list[str] = []
        self.start_gate: asyncio.Event | None = None

    async def start(self, birth: Birth) -> Machine:
        assert birth.machine not in self.host.bodies, "a machine is made twice"
        self.starting.add(birth.machine)
        self.most_at_once = max(self.most_at_once, len(self.starting))
        try:
            return await self._start(birth)
        finally:
            self.starting.discard(birth.machine)

    async def _start(self, birth: Birth) -> Machine:
        self._step("layer: record")
        machine = Machine(
            id=birth.machine,
            born_as=birth.machine,
            isolation=birth.isolation,
            image=birth.image.name,
            digest=birth.image.digest,
            index=1,
            address="10.0.0.2",
            port=7071,
            secret=birth.secret,
            boot_id=self.host.boot,
            netns="",
            epoch=birth.origin.memory.epoch if birth.origin and birth.origin.memory else 0,
        )
        body = self.host.bodies[birth.machine] = Body(machine)
        await asyncio.sleep(0)
        self._step("layer: disk")
        body.disk = True
        if self.start_gate is not None:
            await self.start_gate.wait()
        await asyncio.sleep(0)
        self._step("layer: process")
        body.alive = True
        self._step("layer: started")
        body.record = replace(machine, pid=1, started=1)
        self.started.append(birth.machine)
        return body.record

    async def rehearse(self, machine: Machine) -> None:
        self._step("layer: rehearse")
        await asyncio.sleep(0)
        if not self.host.bodies[machine.id].alive:
            raise MachineFailed("the guest is not there")

    async def hand_over(self, machine: Machine, tenancy: Tenancy) -> None:
        self._step("layer: hand over")
        await asyncio.sleep(0)
        body = self.host.bodies[machine.id]
        if not body.alive:
            raise MachineFailed("the guest is not there")
        if body.tenancy is not None and body.tenancy.secret != tenancy.secret:
            raise MachineFailed("claimed already with another secret")
        body.tenancy = tenancy
        self._step("layer: handed over")

    async def still(self, machine: Machine, epoch: int, secret: str, *, if_idle: bool) -> bool:
        self._step("layer: still")
        if self.host.busy and if_idle:
            raise Busy("something runs")
        self.host.closed.add(machine.id)
        return self.host.lasting

    async def flush(self, machine: Machine, epoch: int, secret: str) -> None:
        self._step("layer: flush")

    async def unstill(self, machine: Machine, epoch: int, secret: str) -> None:
        self._step("layer: unstill")
        self.host.closed.discard(machine.id)

    async def end(self, machine: str) -> None:
        self._step("layer: end")
        if machine in self.host.bodies:
            self.host.die(machine)

    async def destroy(self, machine: str) -> dict[str, LastWords]:
        assert machine not in self.starting, "a machine is destroyed while it is being made"
        self._step("layer: destroy")
        body = self.host.bodies.get(machine)
        words: dict[str, LastWords] = {}
        if body is not None:
            if body.alive:
                self.host.die(machine)
            await asyncio.sleep(0)
            self._step("layer: kill done")
            words = {"p" * 32: LastWords(b"out", b"err")} if body.disk and body.tenancy else {}
            body.disk = False
            self._step("layer: disk gone")
            del self.host.bodies[machine]
        return words

    def found(self) -> list[str]:
        return sorted(self.host.bodies)

    def read(self, machine: str) -> Machine | None:
        body = self.host.bodies.get(machine)
        return None if body is None else body.record

    def has_disk(self, machine: str) -> bool:
        body = self.host.bodies.get(machine)
        return body is not None and body.disk

    def alive(self, machine: Machine) -> bool:
        body = self.host.bodies.get(machine.id)
        return machine.pid is not None and body is not None and body.alive

    async def exited(self, machine: Machine) -> None:
        body = self.host.bodies.get(machine.id)
        if body is not None and body.alive:
            await body.gone.wait()

    def use(self, machine: str) -> Use | None:
        body = self.host.bodies.get(machine)
        return None if body is None else body.use


class NeverStarts(Layer):
    """Every machine fails while it is being made, and leaves its traces."""

    async def _start(self, birth: Birth) -> Machine:
        self.host.bodies[birth.machine] = Body(disk=True)
        raise MachineFailed("the guest does not answer")


class ComesLate(Layer):
    """The first machines do not come up in time, and leave their traces."""

    late = 1

    async def _start(self, birth: Birth) -> Machine:
        if self.late:
            self.late -= 1
            self.host.bodies[birth.machine] = Body(disk=True)
            raise MachineLate("the guest does not answer")
        return await super()._start(birth)


class DiesYoung(Layer):
    """Machines come up and are dead before they can be handed over."""

    async def hand_over(self, machine: Machine, tenancy: Tenancy) -> None:
        self.host.die(machine.id)
        await super().hand_over(machine, tenancy)


class ForgetsToDie(Layer):
    """Machines do not go while `stubborn`."""

    stubborn = True

    async def destroy(self, machine: str) -> dict[str, LastWords]:
        if self.stubborn and machine in self.host.bodies:
            raise MachineFailed("its processes do not go")
        return await super().destroy(machine)
