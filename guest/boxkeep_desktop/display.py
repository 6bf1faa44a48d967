"""The display: an X server that keeps its screen in memory and serves it by VNC, with a window manager on it."""

import asyncio
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from boxkeep_desktop.programs import Program

_START_S: Final = 30.0
_OUTPUT: Final = "VNC-0"
_RULES: Final = str(Path(__file__).with_name("openbox.xml"))
_TRIES: Final = 100
_FRAMES_A_SECOND: Final = 30
"""Smooth for who looks, and half the work of a usual screen's sixty where all is drawn by the processor."""


class DisplayFailed(Exception):
    """There is no display; the sentence says why."""


class Display:
    """A display and its window manager. `port` serves its screen on loopback, to who is let there."""

    def __init__(self, name: str, port: int, server: Program, manager: Program) -> None:
        self.name = name
        self.port = port
        self._server = server
        self._manager = manager

    @property
    def environment(self) -> Mapping[str, str]:
        """What programs that shall appear on it need to know."""
        return {"DISPLAY": self.name}

    @classmethod
    async def start(cls, width: int, height: int, port: int) -> "Display":
        """A display of that size in pixels, served on `port` or, where that is taken, on one after it.

        Raises:
            DisplayFailed
        """
        port = free_port(port)
        told, tell = os.pipe()
        try:
            server = await Program.start(_server_argv(width, height, port, tell), pass_fds=[tell])
        except OSError as error:
            os.close(told)
            raise DisplayFailed(f"There is no X server here: {error}") from error
        finally:
            os.close(tell)
        number = await _number(told, server)
        name = f":{number}"
        manager = await Program.start(["openbox", "--sm-disable", "--config-file", _RULES], {"DISPLAY": name})
        return cls(name, port, server, manager)

    async def resize(self, width: int, height: int) -> None:
        """Give it another size.

        Raises:
            DisplayFailed
        """
        mode = f"{width}x{height}-of-boxkeep"
        timings = [*[str(width)] * 4, *[str(height)] * 4]
        # A screen in memory heeds the sizes alone, but Chromium makes as many frames a second as the clock says.
        clock = f"{width * height * _FRAMES_A_SECOND / 1e6:.2f}"
        for words in (
            ("--newmode", mode, clock, *timings),
            ("--addmode", _OUTPUT, mode),
            ("--output", _OUTPUT, "--mode", mode),
        ):
            tool = await Program.start(["xrandr", *words], self.environment)
            status = await tool.ended()
            if status != 0 and words[0] == "--output":
                raise DisplayFailed(f"The display takes no other size: {tool.last_words}")

    async def ended(self) -> int:
        """Wait for the end of either part; its exit status."""
        waits = [asyncio.create_task(part.ended()) for part in (self._server, self._manager)]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for wait in waits:
                wait.cancel()

    async def end(self) -> None:
        """End it."""
        await self._manager.end()
        await self._server.end()


def free_port(first: int) -> int:
    """The first port of loopback from `first` on that nothing listens on.

    Raises:
        DisplayFailed: there is none of the next hundred.
    """
    for port in range(first, first + _TRIES):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise DisplayFailed(f"No port from {first} on is free")


def _server_argv(width: int, height: int, port: int, tell: int) -> list[str]:
    return [
        "Xvnc",
        "-displayfd",
        str(tell),
        "-geometry",
        f"{width}x{height}",
        "-depth",
        "24",
        "-rfbport",
        str(port),
        "-localhost",
        "-SecurityTypes",
        "None",
        "-AlwaysShared",
        "-nolisten",
        "tcp",
        "-noreset",
        "-desktop",
        "browser",
    ]


async def _number(told: int, server: Program) -> int:
    """The number that the server gave itself, which it tells when it is up."""
    reader = asyncio.StreamReader()
    pipe = os.fdopen(told, "rb", buffering=0)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        async with asyncio.timeout(_START_S):
            return int(await reader.readline())
    except (TimeoutError, ValueError) as error:
        await server.end()
        raise DisplayFailed(f"The X server does not start: {server.last_words}") from error
