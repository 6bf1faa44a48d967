"""Keeps the gateway's process: starts it, hears who is at previews, starts it again when it ends, and ends it."""

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Sequence
from typing import Final

import orjson

from boxkeep_server.control.presence import Attendance

LOG = logging.getLogger("boxkeep.gateway")
AGAIN_S: Final = 0.25
MOST_S: Final = 30.0
"""How soon it is started again: at once where it was well, later and later where it never is."""
WELL_S: Final = 10.0
END_S: Final = 5.0
LINE_MOST: Final = 1 << 20
COMMAND: Final = (sys.executable, "-m", "boxkeep.cli", "gateway")


class Keeper:
    """One process at a time, run by `command`. It ends by itself when we are gone."""

    def __init__(self, attendance: Attendance, command: Sequence[str] = COMMAND, again_s: float = AGAIN_S) -> None:
        self._attendance = attendance
        self._command = command
        self._again_s = again_s

    async def run(self) -> None:
        """Keep it for ever."""
        clock, wait_s = asyncio.get_running_loop().time, self._again_s
        while True:
            began = clock()
            code = await self._run_once()
            wait_s = self._again_s if clock() - began > WELL_S else min(2 * wait_s, MOST_S)
            LOG.error("the gateway ended with %s; it is started again in %.1f s", code, wait_s)
            await asyncio.sleep(wait_s)

    async def _run_once(self) -> int | None:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(*self._command, stdin=theirs.fileno())
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=LINE_MOST)
        try:
            while line := await reader.readline():
                self._attendance.report(orjson.loads(line))
        except ConnectionError:
            pass  # it was killed
        finally:
            self._attendance.report(())
            writer.close()
            await _ended(process)
        return process.returncode


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Return when it has ended: by force if it does not in time, or if we are not to wait for it."""
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
