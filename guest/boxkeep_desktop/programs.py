"""Programs that the desktop is made of: started, waited for, and ended with everything that they started."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Final

_END_S: Final = 3.0
_WORDS: Final = 4096
_TIED: Final = ("setpriv", "--pdeathsig", "KILL", "--")


class Program:
    """One running program in a process group of its own, which is killed if the desktop dies. Its last words are those
    of its standard error."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._words = bytearray()
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def start(
        cls, argv: Sequence[str], environment: Mapping[str, str] | None = None, pass_fds: Sequence[int] = ()
    ) -> "Program":
        """Start one.

        Raises:
            OSError: no program can be started. One that is not there ends at once, and says so.
        """
        process = await asyncio.create_subprocess_exec(
            *_TIED,
            *argv,
            env=None if environment is None else {**os.environ, **environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            pass_fds=pass_fds,
        )
        return cls(process)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    @property
    def last_words(self) -> str:
        """The end of what it complained of."""
        return self._words.decode(errors="replace").strip()

    async def ended(self) -> int:
        """Wait for its end; its exit status, as of `subprocess`."""
        return await self._process.wait()

    async def end(self) -> None:
        """End it and all of its group, in order if it does so soon."""
        if self.running:
            self._signal(signal.SIGTERM)
            # By no `asyncio.timeout`: in a task that is being cancelled, Python 3.11.2 takes its end for the task's.
            await asyncio.wait([asyncio.create_task(self._process.wait())], timeout=_END_S)
        self._signal(signal.SIGKILL)
        await self._process.wait()
        self._listening.cancel()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    async def _listen(self) -> None:
        assert self._process.stderr is not None, "it was piped"
        while chunk := await self._process.stderr.read(_WORDS):
            self._words += chunk
            del self._words[:-_WORDS]
