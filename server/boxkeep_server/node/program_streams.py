"""Streams of bytes out of programs and into them, as of `btrfs send` and `tar`; none of them outlives its use."""

import asyncio
import contextlib
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Final

BLOCK: Final = 1 << 20
_WORDS: Final = 1 << 12


class StreamFailed(Exception):
    """A program ended with an error; the sentence has its last words."""


async def output_of(*argv: str | Path) -> AsyncGenerator[bytes, None]:
    """What a program writes, in blocks of 1 MiB at most. Close it when done.

    Raises:
        StreamFailed
    """
    async with _program(argv, stdout=PIPE) as program:
        assert program.stdout is not None, "it was piped"
        while block := await program.stdout.read(BLOCK):
            yield block
        await _ended(program, argv)


class Input:
    """A program that reads what is written here; see `volumes.Receiver`."""

    def __init__(self, program: Process, argv: tuple[str | Path, ...]) -> None:
        self._program = program
        self._argv = argv

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
            await _ended(self._program, self._argv)
            raise StreamFailed(f"{self._argv[0]} ended early") from None

    async def end(self) -> None:
        """All was written: wait until the program has ended well.

        Raises:
            StreamFailed
        """
        assert self._program.stdin is not None, "it was piped"
        self._program.stdin.close()
        await _ended(self._program, self._argv)


@contextlib.asynccontextmanager
async def input_of(*argv: str | Path) -> AsyncIterator[Input]:
    """A program to write to."""
    async with _program(argv, stdin=PIPE) as program:
        yield Input(program, argv)


@contextlib.asynccontextmanager
async def _program(
    argv: tuple[str | Path, ...], stdin: int | None = None, stdout: int | None = None
) -> AsyncIterator[Process]:
    program = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL if stdin is None else stdin,
        stdout=asyncio.subprocess.DEVNULL if stdout is None else stdout,
        stderr=PIPE,
        limit=2 * BLOCK,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    try:
        yield program
    finally:
        if program.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                program.kill()
        await program.wait()


async def _ended(program: Process, argv: tuple[str | Path, ...]) -> None:
    assert program.stderr is not None, "it was piped"
    words = await program.stderr.read()
    if await program.wait() != 0:
        raise StreamFailed(f"{argv[0]} failed: {words[-_WORDS:].decode(errors='replace').strip()}")
