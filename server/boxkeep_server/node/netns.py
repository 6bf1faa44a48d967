"""Network namespaces kept by files, and running a function in one."""

import contextlib
import fcntl
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from boxkeep_server.node import syscalls
from boxkeep_server.node.mountspace import mounts

T = TypeVar("T")
_LINK_S: Final = 3.0
_LOOK_S: Final = 0.001
_SIOCGIFFLAGS: Final = 0x8913
_IFF_RUNNING: Final = 0x40


class CommandFailed(Exception):
    """A program that changes the network failed; the sentence has its words."""


def run(argv: list[str], text: str = "") -> str:
    """Run a program with `text` as its input; what it prints.

    Raises:
        CommandFailed
    """
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode != 0:
        raise CommandFailed(f"{' '.join(argv)}: {done.stderr.strip()[-2000:]}\n{text[:2000]}")
    return done.stdout


def ip(*lines: str) -> None:
    """Change links, addresses and routes of the calling thread's namespace, all in one go."""
    run(["ip", "-batch", "-"], "\n".join(lines))


def await_link(name: str) -> None:
    """Wait until a link of the calling thread's namespace carries packets, which the kernel lets it do a moment after
    it was set up: what is sent before is lost, and sent again a second later.

    Raises:
        CommandFailed: the other end is not up within three seconds.
    """
    asked = struct.pack("16sH", name.encode(), 0)
    deadline = time.monotonic() + _LINK_S
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        while not struct.unpack("16xH", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, asked))[0] & _IFF_RUNNING:
            if time.monotonic() > deadline:
                raise CommandFailed(f"the link {name} does not come up")
            time.sleep(_LOOK_S)


def make(path: Path, inside: Callable[[], None]) -> None:
    """Make a namespace kept by the file `path` and call `inside` in it, before anything can see it."""

    def work() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        inside()
        path.touch(mode=0o600)
        syscalls.mount("/proc/thread-self/ns/net", path, None, syscalls.MS_BIND)

    _in_thread(work)


def within(path: Path, work: Callable[[], T]) -> T:
    """Call `work` in the namespace kept by `path`, in a thread of its own."""

    def enter() -> T:
        with path.open("rb") as file:
            syscalls.setns(file.fileno(), syscalls.CLONE_NEWNET)
        return work()

    return _in_thread(enter)


def exists(path: Path) -> bool:
    """Whether `path` keeps a namespace."""
    return any(entry.target == str(path) for entry in mounts())


def remove(path: Path) -> None:
    """Let a namespace go. May be repeated."""
    with contextlib.suppress(OSError):
        syscalls.unmount(path, syscalls.MNT_DETACH)
    path.unlink(missing_ok=True)


def _in_thread(work: Callable[[], T]) -> T:
    """Call in a new thread, so that no other work ever runs in a thread that has changed its namespace."""
    results: list[T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - carried to the caller's thread
            errors.append(error)

    thread = threading.Thread(target=call, name="netns")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
