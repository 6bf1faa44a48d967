"""Operations on the machine as a whole: ping, claim, gate, flush, info, watch."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable

from boxkeep_guest import __version__, handshakes
from boxkeep_guest.boot import Boot
from boxkeep_guest.calls import Call, Op
from boxkeep_guest.connection import Connection
from boxkeep_guest.errors import Refused
from boxkeep_guest.events import Events
from boxkeep_guest.frames import JSON
from boxkeep_guest.interior import hooks, name_by_id, name_in_files, name_resolver, write_generation
from boxkeep_guest.memory import Memory
from boxkeep_guest.process import Process
from boxkeep_guest.processes import Processes
from boxkeep_guest.records import Spec
from boxkeep_guest.service import Gate, Identity

HEARTBEAT_SECONDS = 10.0
HOOKS_SECONDS = 10.0
_HOSTNAME_MOST = 64
_IN_HOSTNAMES = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.")


class MachineCalls:
    """The handlers."""

    def __init__(
        self,
        boot: Boot,
        identity: Identity,
        gate: Gate,
        *,
        processes: Processes,
        events: Events,
        memory: Memory,
        part: Callable[[Connection], None],
    ) -> None:
        self._part = part
        self._boot = boot
        self._identity = identity
        self._gate = gate
        self._processes = processes
        self._events = events
        self._memory = memory
        self._started = time.monotonic()

    def ops(self) -> dict[str, Op]:
        """The operations by name."""
        return {
            "ping": Op(self._ping, held=False, counted=False),
            "claim": Op(self._claim, held=False, counted=False),
            "gate": Op(self._set_gate, held=False, counted=False),
            "flush": Op(self._flush, held=False, counted=False),
            "info": Op(self._info, held=False, counted=False),
            "watch": Op(self._watch, counted=False),
        }

    @staticmethod
    async def _ping(call: Call) -> None:
        await call.answer(time=time.time_ns() // 1_000_000)

    async def _claim(self, call: Call) -> None:
        fields, identity = call.fields, self._identity
        epoch = fields.integer("epoch", least=1)
        secret = fields.hexadecimal("secret", 32)
        hostname = fields.text("hostname")
        env = fields.environment("env")
        forked_as = fields.optional_text("forkedAs")
        another = forked_as is not None and self._gate.closed  # another sandbox, whose lives are counted from one
        if (epoch, secret) != (identity.epoch, identity.secret) and epoch <= identity.epoch and not another:
            raise Refused("not_permitted", f"The machine is claimed for epoch {identity.epoch} already")
        if not 0 < len(hostname) <= _HOSTNAME_MOST or not set(hostname) <= _IN_HOSTNAMES:
            raise Refused("bad_request", "hostname must have 1 to 64 letters, digits, hyphens and dots")
        if os.getpid() == 1:
            _name_machine(hostname)
        resumed, nameserver = fields.flag("resumed"), fields.optional_text("nameserver")
        if not identity.epoch and not resumed:
            self._processes.forget_finished()  # what the machine rehearsed with before it was anybody's
        self._processes.environment = env
        if os.getpid() == 1:
            write_generation(epoch if forked_as is None else int.from_bytes(os.urandom(6), "big"))
            if forked_as is not None:
                name_by_id(forked_as)
        if resumed:
            self._part(call.connection)  # what the machine that it was had of connections, none of which lives
            await self._settle_in(nameserver)
        identity.machine = fields.optional_text("machine") or identity.machine
        identity.secret, identity.epoch = secret, epoch
        self._open_gate()
        await call.answer()

    def _open_gate(self) -> None:
        self._gate.closed = self._gate.parted = False
        self._processes.go_on()

    async def _settle_in(self, nameserver: str | None) -> None:
        """Learn where the machine is now, and let what the user has put there for that do the same."""
        if os.getpid() == 1 and nameserver:
            name_resolver(nameserver)
        begun = [await self._processes.start(_hook(path)) for path in hooks()]
        try:
            async with asyncio.timeout(HOOKS_SECONDS):
                for process in begun:
                    if isinstance(process, Process):
                        await process.done.wait()
        except TimeoutError:
            for process in begun:
                if isinstance(process, Process) and not process.finished:
                    process.end("timed_out", f"It ran longer than {HOOKS_SECONDS} s", gentle=False)

    async def _set_gate(self, call: Call) -> None:
        part, idle = call.fields.flag("part"), call.fields.flag("idle")
        if not call.fields.flag("closed", None):
            self._open_gate()
            await call.answer()
            return
        if idle and self._processes.at_work:
            raise Refused("busy", "A process is running")
        if idle or not part:
            self._gate.check()
        self._gate.closed, self._gate.parted = True, part
        self._processes.stand()
        if not part:
            await call.answer()
            return
        self._part(call.connection)
        await call.answer(lasting=self._boot.runtime != "runsc" or await handshakes.over())
        call.connection.close()

    @staticmethod
    async def _flush(call: Call) -> None:
        await asyncio.get_running_loop().run_in_executor(None, os.sync)
        await call.answer()

    async def _info(self, call: Call) -> None:
        disk = os.statvfs(self._boot.workspace if os.path.isdir(self._boot.workspace) else self._boot.log)  # noqa: PTH112
        await call.answer(
            version=__version__,
            uptimeMs=int((time.monotonic() - self._started) * 1000),
            memoryBytes=self._memory.used(),
            memoryLimitBytes=self._memory.limit(),
            diskFreeBytes=disk.f_bavail * disk.f_frsize,
            **self._processes.summary(),
        )

    async def _watch(self, call: Call) -> None:
        seq = call.fields.integer("after", 0)
        await call.answer()
        while True:
            event = self._events.after(seq)
            if event is not None:
                seq = event[0]
                await call.connection.send(JSON, event[1])
            elif not await self._events.changed(HEARTBEAT_SECONDS):
                await call.json({"heartbeat": True})


def _hook(path: str) -> Spec:
    return Spec(
        id=os.urandom(16).hex(),
        command=path,
        args=[],
        cwd="/",
        env={},
        user=None,
        stdin=None,
        keep_stdin=False,
        timeout_ms=int(HOOKS_SECONDS * 1000),
        background=True,
        pty=None,
    )


def _name_machine(hostname: str) -> None:
    """Give the machine its name; where the kernel does not permit that from inside, the host has given it."""
    with contextlib.suppress(OSError):
        socket.sethostname(hostname)
    name_in_files(hostname)
