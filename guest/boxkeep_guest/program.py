"""The guest as a program: puts the parts together and serves until it is ended."""

import asyncio
import os
import selectors
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from boxkeep_guest import attributes, crowding, pid1
from boxkeep_guest.boot import Boot, read_boot
from boxkeep_guest.calls import Op
from boxkeep_guest.events import Events
from boxkeep_guest.file_calls import FileCalls
from boxkeep_guest.interior import image_environment
from boxkeep_guest.machine_calls import MachineCalls
from boxkeep_guest.memory import Memory, OomCounter
from boxkeep_guest.port_calls import PortCalls
from boxkeep_guest.process import Process
from boxkeep_guest.process_calls import ProcessCalls
from boxkeep_guest.processes import Processes
from boxkeep_guest.relief import Relief
from boxkeep_guest.service import Gate, Identity, Service
from boxkeep_guest.spawn import Spawner
from boxkeep_guest.terminal_calls import TerminalCalls

_USAGE = "usage: boxkeep_guest <bootfile>"
THREADS = 8


def first_mark() -> int:
    """A number far from any that a program would set as a limit, and from those of other guests."""
    return (1 << 61) + (int.from_bytes(os.urandom(5), "big") << 20)


def _start_all(pool: ThreadPoolExecutor) -> None:
    """Have all its threads there: under runc the node puts those first that it finds when we listen."""
    all_there = Barrier(THREADS)
    for _ in range(THREADS):
        pool.submit(all_there.wait)


async def serve(boot: Boot) -> None:
    """Serve the wire until a signal ends it, which as PID 1 none does."""
    stopped = asyncio.Event()
    file_threads = ThreadPoolExecutor(THREADS, "files")
    process_threads = ThreadPoolExecutor(THREADS, "processes")
    if boot.runtime == "runc":
        _start_all(process_threads)
    events, gate = Events(), Gate()
    identity = Identity(boot.machine, boot.epoch, boot.secret)
    memory = Memory(boot.memory_limit, boot.meminfo)

    def finished(process: Process) -> None:
        events.add({"event": "process.finished", "process": process.record()})

    processes = Processes(boot.log, Spawner(first_mark()), process_threads, finished)
    processes.adopt()
    if boot.runtime == "runsc":
        attributes.work_around(boot.log)
    processes.image_environment = image_environment()
    processes.oom_killed = OomCounter().killed_lately
    pid1.shield()
    pid1.attend_signals(processes.reap, stopped.set)
    service = Service(identity, gate)
    calls = ProcessCalls(processes, process_threads, boot.workspace)
    parts: list[dict[str, Op]] = [
        MachineCalls(boot, identity, gate, processes=processes, events=events, memory=memory, part=service.part).ops(),
        calls.ops(),
        TerminalCalls(processes, calls, announce=boot.runtime == "runsc").ops(),
        FileCalls(file_threads).ops(),
        PortCalls(boot.port).ops(),
    ]
    for ops in parts:
        service.ops |= ops
    server = await service.listen(boot.address, boot.port)
    relief = Relief(processes, process_threads, events.add)
    watches = (memory.watch(relief), crowding.watch(boot.process_limit, relief)) if boot.runtime == "runsc" else ()
    watchers = [asyncio.create_task(watch) for watch in watches]
    await stopped.wait()
    server.close()
    for watcher in watchers:
        watcher.cancel()
    await processes.end_all()


def _loop_for(boot: Boot) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Under gVisor one that asks the kernel anew each time: its `epoll` tells for ever of a connection that it has
    restored, of nothing else, and not even that it was closed."""
    if boot.runtime != "runsc":
        return None
    return lambda: asyncio.SelectorEventLoop(selectors.PollSelector())


def main(arguments: list[str]) -> int:
    """Run the guest; its exit status."""
    if len(arguments) != 1:
        sys.stderr.write(_USAGE + "\n")
        return 2
    try:
        boot = read_boot(arguments[0])
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.stderr.write(f"boxkeep-guest: the boot file is not usable: {error!r}\n")
        return 2
    with asyncio.Runner(loop_factory=_loop_for(boot)) as runner:
        runner.run(serve(boot))
    return 0
