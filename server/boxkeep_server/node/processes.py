"""Processes of machines as the host sees them: told apart from later bearers of a pid, waited for, found, reaped."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_FIRST = -20


def start_time(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None when it is gone or a zombie."""
    fields = _status(pid)
    return None if fields is None or fields[0] in (b"Z", b"X") else int(fields[19])


def is_alive(pid: int, started: int) -> bool:
    """Whether the process that began at `started` still runs."""
    return start_time(pid) == started


async def ended(pid: int, started: int) -> None:
    """Wait until the process that began at `started` has ended, whoever its parent is."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if is_alive(pid, started):
            await _readable(descriptor)
    finally:
        os.close(descriptor)


def kill(pid: int, started: int | None) -> None:
    """Kill the process that began at `started`. May be repeated."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            if started is not None and is_alive(pid, started):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)


def allow_slack(pid: int, nanoseconds: int) -> None:
    """Let the timers of a process be that late, of all its threads and of those that they start later."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in (_PROC / str(pid) / "task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                (_PROC / thread.name / "timerslack_ns").write_text(str(nanoseconds))


def put_first(pid: int) -> None:
    """Let a process, of all its threads, have the processor before what it starts, which has an ordinary priority.

    Priorities count within a cgroup: nothing outside of it goes short.
    """
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in (_PROC / str(pid) / "task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setscheduler(int(thread.name), os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
                os.setpriority(os.PRIO_PROCESS, int(thread.name), _FIRST)


def at_work_on(machine: str, binaries: set[str], verb: str | None = None) -> list[int]:
    """The pids of runtimes' processes, and of what wraps them, that a machine's id was given to; with `verb` those of
    that command alone."""
    given, programs = {machine, *([verb] if verb else [])}, {os.fsencode(path) for path in binaries}
    return [pid for pid in _all() if _is_at_work(pid, {word.encode() for word in given}, programs)]


def reap_orphans() -> None:
    """Collect what machines left to this process, should it be a subreaper: ended children of other sessions.

    Children that it started itself share its session and are left to whoever waits for them. Nothing here needs a
    subreaper; without one it is the host's first process that collects.
    """
    session = str(os.getsid(0)).encode()
    for pid in _children():
        fields = _status(pid)
        if fields is not None and fields[0] == b"Z" and fields[3] != session:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _is_at_work(pid: int, given: set[bytes], binaries: set[bytes]) -> bool:
    words = _text(pid, "cmdline").split(b"\0")
    if not all(any(one in word for word in words) for one in given):
        return False
    try:
        program = os.fsencode((_PROC / str(pid) / "exe").readlink())
    except OSError:
        program = b""
    return bool(binaries & {program, *words})


def _all() -> Iterator[int]:
    return (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal())


def _children() -> list[int]:
    found: list[int] = []
    for task in (_PROC / "self" / "task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.extend(map(int, (task / "children").read_text().split()))
    return found


def _status(pid: int) -> list[bytes] | None:
    """The fields of /proc/<pid>/stat from the state on."""
    status = _text(pid, "stat")
    return status[status.rindex(b")") + 2 :].split() if status else None


def _text(pid: int, file: str) -> bytes:
    try:
        return (_PROC / str(pid) / file).read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def finish() -> None:
        if not done.done():
            done.set_result(None)

    loop.add_reader(descriptor, finish)
    try:
        await done
    finally:
        loop.remove_reader(descriptor)
