"""Stands for the guest in tests of the body alone: runs what it is asked to, holds a terminal, and answers."""

import ctypes
import json
import os
import pathlib
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

terminals: list[int] = []


def run(argv: list[str]) -> dict[str, Any]:
    try:
        done = subprocess.run(
            argv, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
    except OSError as error:
        return {"code": 127, "said": str(error)}
    return {"code": done.returncode, "said": done.stdout.decode(errors="replace")}


def start(argv: list[str]) -> dict[str, Any]:
    """Leave a command running; its pid."""
    quiet = subprocess.DEVNULL
    return {"code": 0, "said": str(subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=quiet).pid)}


def open_terminal(argv: list[str]) -> dict[str, Any]:
    pid, master = pty.fork()
    if not pid:
        os.execvp(argv[0], argv)
    terminals.append(master)
    return {"code": 0, "said": str(pid)}


def talk(line: str, until: str) -> dict[str, Any]:
    """Type a line into the terminal and read until its answer is there, 10 s at most."""
    os.write(terminals[0], line.encode() + b"\n")
    said = ""
    while until not in said and select.select([terminals[0]], [], [], 10)[0]:
        said += os.read(terminals[0], 65536).decode(errors="replace")
    return {"code": 0, "said": said}


OPERATIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "run": run,
    "start": start,
    "terminal": open_terminal,
    "talk": talk,
}


def serve(connection: socket.socket) -> None:
    with connection, connection.makefile("rwb") as stream:
        line = stream.readline()
        if line:
            name, *arguments = json.loads(line)
            stream.write(json.dumps(OPERATIONS[name](*arguments)).encode())


def main() -> None:
    boot = json.loads(pathlib.Path(sys.argv[1]).read_text())
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    listener = socket.create_server(tuple(boot["listen"]), backlog=128)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


main()
