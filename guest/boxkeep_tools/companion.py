"""The way to the program that accompanies the agent: one JSON line asked and one answered by each connection."""

import asyncio
import json
from typing import Any, Final

from boxkeep_tools.faults import ToolFailed

SOCKET_VARIABLE: Final = "BOXKEEP_AGENT_SOCKET"
"""The environment variable that holds the path of its Unix socket."""
_ANSWER_MOST: Final = 256 << 10


class Companion:
    """Who knows what the sandbox has, and who can ask a person. `path` is that of its socket."""

    def __init__(self, path: str | None) -> None:
        self._path = path

    async def ask(self, within_s: float, **question: Any) -> dict[str, Any]:
        """What it answers. A question that is given up is taken back: its connection closes.

        Raises:
            ToolFailed: it is not there, does not answer in time, or answers no object.
        """
        try:
            async with asyncio.timeout(within_s):
                answered = await self._answered(json.dumps(question).encode() + b"\n")
            answer = json.loads(answered)
        except TimeoutError as error:
            raise ToolFailed("The sandbox has not answered in time. Try again later.") from error
        except (OSError, ValueError, RecursionError) as error:
            raise ToolFailed("What this needs of the sandbox is not there now. Try again in some seconds.") from error
        if not isinstance(answer, dict):
            raise ToolFailed("The sandbox has answered what cannot be understood.")
        return answer

    async def _answered(self, line: bytes) -> bytes:
        if self._path is None:
            raise OSError(f"{SOCKET_VARIABLE} is not set")
        reader, writer = await asyncio.open_unix_connection(self._path, limit=_ANSWER_MOST)
        try:
            writer.write(line)
            await writer.drain()
            return await reader.readline()
        finally:
            writer.close()
