"""Persons that the agent asks for: one at a time, each answered in the end."""

import asyncio
import os
from collections.abc import Callable
from typing import Any, Final

from boxkeep_agent.story import cut
from boxkeep_desktop.reports import report

_MESSAGE_MOST: Final = 5000
_BUSY: Final = {"status": "refused", "note": None, "sentence": "A person has been asked for already"}


class Persons:
    """Asks for persons, through whoever reads what we report."""

    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        self._tell = tell
        self._asked: tuple[str, asyncio.Future[dict[str, Any]]] | None = None

    async def ask(self, reason: str, message: str) -> dict[str, Any]:
        """Ask for a person, and wait for what comes of it."""
        if self._asked is not None:
            return dict(_BUSY)
        name = os.urandom(16).hex()
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked = name, answer
        self._tell({"kind": "asked", "ask": name, "why": reason[:40], "text": cut(message, _MESSAGE_MOST)})
        report("fact", facts={"ask": name})
        try:
            return await answer
        finally:
            if self._asked is None or self._asked[0] == name:
                self._asked = None
                report("fact", facts={"ask": ""})

    def answered(self, name: str, answer: dict[str, Any]) -> None:
        """What came of it. One that nobody waits for any more is let be."""
        if self._asked is not None and self._asked[0] == name and not self._asked[1].done():
            self._asked[1].set_result(answer)

    def forget(self) -> None:
        """Nobody waits for a person any more."""
        if self._asked is not None and not self._asked[1].done():
            self._asked[1].set_result({"status": "cancelled", "note": None, "sentence": "The task is over"})
        self._asked = None
