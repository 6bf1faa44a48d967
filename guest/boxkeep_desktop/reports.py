"""What the desktop has to say, as JSON lines on standard output, and what it is told, likewise on standard input."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from typing import Any, Final

_LINE_MOST: Final = 1 << 20


def report(event: str, **more: Any) -> None:
    """Say that something has happened."""
    line = json.dumps({"event": event, **more}, ensure_ascii=False)
    os.write(sys.stdout.fileno(), line.encode("utf-8", "replace") + b"\n")


async def listen() -> asyncio.StreamReader:
    """The lines that the desktop is told."""
    reader = asyncio.StreamReader(limit=_LINE_MOST)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def orders(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """What is asked of the desktop, until nobody can ask any more. A line that is no object is passed over."""
    while line := await reader.readline():
        try:
            order = json.loads(line)
        except ValueError:
            continue
        if isinstance(order, dict):
            yield order
