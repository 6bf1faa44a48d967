"""Where the agent's tools ask: a socket at which one line is one question, and one line its answer."""

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

_QUESTION_MOST: Final = 64 << 10
_QUESTION_S: Final = 10.0

Answer = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


async def serve(path: Path, answer: Answer) -> asyncio.Server:
    """Begin to listen at `path`, for root alone."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    before = os.umask(0o077)
    try:
        return await asyncio.start_unix_server(lambda *both: _asked(answer, *both), path, limit=_QUESTION_MOST)
    finally:
        os.umask(before)


async def _asked(answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One question. Who asked and has gone wants no answer any more."""
    try:
        async with asyncio.timeout(_QUESTION_S):
            question = json.loads(await reader.readline())
        answering = asyncio.ensure_future(answer(question if isinstance(question, dict) else {}))
        gone = asyncio.create_task(reader.read(1))
        try:
            await asyncio.wait((answering, gone), return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                writer.write(json.dumps(answering.result()).encode() + b"\n")
                await writer.drain()
        finally:
            for task in (answering, gone):
                task.cancel()
            await asyncio.gather(answering, gone, return_exceptions=True)
    except (TimeoutError, ValueError, RecursionError, OSError):
        return
    finally:
        writer.close()
