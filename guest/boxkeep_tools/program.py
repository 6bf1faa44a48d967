"""The tools as a program: speaks MCP over its standard streams until its input ends."""

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

from boxkeep_tools.browsing import Browsing
from boxkeep_tools.catalogue import BROWSER_WORDS, PERSON_WORDS, browser_tools
from boxkeep_tools.companion import SOCKET_VARIABLE, Companion
from boxkeep_tools.lines import Lines
from boxkeep_tools.messages import line
from boxkeep_tools.person import person_tool
from boxkeep_tools.server import Server
from boxkeep_tools.tools import Tool

_BLOCK: Final = 64 << 10
_LINE_MOST: Final = 1 << 20
_USAGE: Final = "usage: boxkeep_tools [--browser [--person]]\n"


def main(arguments: list[str]) -> int:
    """Serve; the exit status."""
    if arguments not in ([], ["--browser"], ["--browser", "--person"]):
        sys.stderr.write(_USAGE)
        return 2
    try:
        asyncio.run(_serve("--browser" in arguments, "--person" in arguments))
    except (ConnectionError, BrokenPipeError):
        return 1
    return 0


async def _serve(has_browser: bool, has_persons: bool) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    sending = asyncio.Lock()

    async def send(message: dict[str, Any]) -> None:
        async with sending:
            writer.write(line(message))
            await writer.drain()

    browsing = Browsing(Companion(os.environ.get(SOCKET_VARIABLE)), lambda: os.urandom(6).hex())
    tools, words = _offered(browsing, has_browser, has_persons)
    server = Server(tools, words, send)
    try:
        lines = Lines(_LINE_MOST)
        while data := await reader.read(_BLOCK):
            for one in lines.feed(data):
                await server.hear(one)
    finally:
        await server.end()
        await browsing.let_go()


def _offered(browsing: Browsing, has_browser: bool, has_persons: bool) -> tuple[Sequence[Tool], str]:
    tools: list[Tool] = [*browser_tools(browsing)] if has_browser else []
    words = [BROWSER_WORDS] if has_browser else []
    if has_persons:
        tools.append(person_tool(browsing.companion, browsing.let_go))
        words.append(PERSON_WORDS)
    return tools, " ".join(words)
