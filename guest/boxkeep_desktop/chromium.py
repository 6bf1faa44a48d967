"""Chromium: its command line, where its protocol is, and whether it lives."""

import asyncio
import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from boxkeep_desktop.programs import Program

_START_S: Final = 60.0
_EVERY_S: Final = 0.05
_PORT_FILE: Final = "DevToolsActivePort"
_PASSING: Final = "/dev/shm"  # noqa: S108 - within a sandbox
"""In memory: a file that is deleted there while it is open keeps no gVisor from writing memory down."""
_LOCKS: Final = ("SingletonLock", "SingletonCookie", "SingletonSocket")
_SWITCHES: Final = (
    "--remote-debugging-port=0",
    # Asked for by who stands before the port: see `devtools`.
    "--remote-allow-origins=*",
    "--no-first-run",
    "--no-default-browser-check",
    "--password-store=basic",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-session-crashed-bubble",
    "--hide-crash-restore-bubble",
    "--force-device-scale-factor=1",
    "--start-maximized",
    "--window-position=0,0",
    # A sandbox has no keyring, and the first would be asked for on the screen.
    "--disable-features=Translate,MediaRouter,OptimizationHints",
)


class BrowserFailed(Exception):
    """There is no browser; the sentence says why."""


class Chromium:
    """A running Chromium. `port` and `path` are where its protocol is spoken, for the whole of it."""

    def __init__(self, program: Program, port: int, path: str) -> None:
        self.port = port
        self.path = path
        self._program = program

    @classmethod
    async def start(
        cls, profile: Path, size: tuple[int, int], proxy: str | None, environment: Mapping[str, str]
    ) -> "Chromium":
        """Start it with a window of that size on the display of `environment`.

        Raises:
            BrowserFailed
        """
        profile.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in (_PORT_FILE, *_LOCKS):  # of one that was killed, or that ran on another machine
            (profile / name).unlink(missing_ok=True)
        _keep_in_memory(profile / "BrowserMetrics")
        argv = [
            "chromium",
            *_SWITCHES,
            f"--user-data-dir={profile}",
            f"--disk-cache-dir={_PASSING}/cache",
            f"--window-size={size[0]},{size[1]}",
        ]
        if proxy is not None:
            argv.append(f"--proxy-server={proxy}")
        try:
            program = await Program.start([*argv, "about:blank"], {**environment, "TMPDIR": _PASSING})
        except OSError as error:
            raise BrowserFailed(f"There is no Chromium here: {error}") from error
        try:
            port, path = await _where(profile / _PORT_FILE, program)
        except BaseException:
            await program.end()
            raise
        return cls(program, port, path)

    async def ended(self) -> int:
        """Wait for its end; its exit status."""
        return await self._program.ended()

    async def end(self) -> None:
        """End it, in order if it does so soon."""
        await self._program.end()


def _keep_in_memory(directory: Path) -> None:
    """Have a directory in which Chromium deletes a file that it goes on to use where that harms nothing."""
    place = Path(_PASSING) / directory.name
    place.mkdir(exist_ok=True)
    if not directory.is_symlink():
        shutil.rmtree(directory, ignore_errors=True)
        directory.symlink_to(place)


def empty(profile: Path) -> None:
    """Begin with no profile."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(profile)


async def _where(file: Path, program: Program) -> tuple[int, str]:
    """What Chromium writes down when it listens: its port, and the path of the browser as a whole."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_START_S):
            while program.running:
                with contextlib.suppress(FileNotFoundError, ValueError):
                    port, path = file.read_text().split("\n")
                    return int(port), path.strip()
                await asyncio.sleep(_EVERY_S)
    raise BrowserFailed(f"Chromium does not start: {program.last_words}")
