"""Subvolumes as streams, by the programs `btrfs send` and `btrfs receive`: whole, without an origin."""

import asyncio
import contextlib
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Final

_BLOCK: Final = 1 << 20
_WORDS: Final = 1 << 12


class StreamFailed(Exception):
    """A program ended with an error; the sentence has its last words."""


async def sent(subvolume: Path) -> AsyncGenerator[bytes, None]:
    """The stream of a read-only subvolume, in blocks of 1 MiB at most. Close it when done.

    Raises:
        StreamFailed
    """
    async with _program("send", "--quiet", subvolume, stdout=PIPE) as program:
        assert program.stdout is not None, "it was piped"
        while block := await program.stdout.read(_BLOCK):
            yield block
        await _ended(program)


class Receiver:
    """Makes a subvolume of a stream that is written into it."""

    def __init__(self, program: Process) -> None:
        self._program = program

    async def write(self, block: bytes) -> None:
        """Go on with the stream.

        Raises:
            StreamFailed: it could not be gone on with.
        """
        assert self._program.stdin is not None, "it was piped"
        self._program.stdin.write(block)
        try:
            await self._program.stdin.drain()
        except ConnectionError:
            await _ended(self._program)
            raise StreamFailed("btrfs ended early") from None

    async def end(self) -> None:
        """All was written: wait until the subvolume is there.

        Raises:
            StreamFailed
        """
        assert self._program.stdin is not None, "it was piped"
        self._program.stdin.close()
        await _ended(self._program)


@contextlib.asynccontextmanager
async def receiving(directory: Path) -> AsyncIterator[Receiver]:
    """A receiver that can reach nothing but `directory`, in which the subvolume gets the name that it was sent with."""
    async with _program("receive", "--quiet", "--chroot", "-e", directory, stdin=PIPE) as program:
        yield Receiver(program)


@contextlib.asynccontextmanager
async def _program(
    verb: str, *arguments: str | Path, stdin: int | None = None, stdout: int | None = None
) -> AsyncIterator[Process]:
    """Run `btrfs`; whatever happens, it has ended afterwards."""
    program = await asyncio.create_subprocess_exec(
        "btrfs",
        verb,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL if stdin is None else stdin,
        stdout=asyncio.subprocess.DEVNULL if stdout is None else stdout,
        stderr=PIPE,
        limit=2 * _BLOCK,
    )
    try:
        yield program
    finally:
        if program.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                program.kill()
        await program.wait()


async def _ended(program: Process) -> None:
    assert program.stderr is not None, "it was piped"
    words = await program.stderr.read()
    if await program.wait() != 0:
        raise StreamFailed(f"btrfs failed: {words[-_WORDS:].decode(errors='replace').strip()}")
