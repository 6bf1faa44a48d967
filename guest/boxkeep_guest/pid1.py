"""What a PID 1 and the parent of all orphans must do: outlive signals, reap, and keep its memory to itself."""

import asyncio
import os
import resource
import signal
from collections.abc import Callable
from typing import Any

PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
_KEPT = (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGPIPE)


def prctl(option: int, *arguments: int | bytes) -> bool:
    """Ask the kernel for something of this process; whether it did it. Bytes are passed by their address."""
    import _ctypes  # noqa: PLC0415 - the bare module: importing all of ctypes costs start-up

    own: Any = None  # the symbols of this program itself
    address = _ctypes.dlsym(_ctypes.dlopen(own, 0), "prctl")
    return int(_ctypes.call_function(address, (option, *arguments, 0, 0))) == 0


def shield() -> None:
    """Not dumpable, so that no process of the tenant reads our memory; orphans come to us; room for descriptors."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_DUMPABLE, 0)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def attend_signals(reap: Callable[[], None], stop: Callable[[], None]) -> None:
    """Reap when children end. As PID 1 no other signal means anything; as a plain program TERM and INT stop it.

    Handlers rather than "ignore", because children would inherit the latter; for every signal, because under gVisor
    those without one end a PID 1.
    """
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGCHLD, reap)
    if os.getpid() == 1:
        for number in signal.valid_signals() - set(_KEPT):
            signal.signal(number, _nothing)
    else:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
    # A full wake-up pipe means that the loop is about to reap anyway: nothing to warn of.
    signal.set_wakeup_fd(signal.set_wakeup_fd(-1), warn_on_full_buffer=False)


def _nothing(_number: int, _frame: object) -> None:
    pass
