"""What has happened, numbered, for whoever watches; the newest events within bounds of number and memory."""

import asyncio
import json
from collections import deque
from typing import Any

EVENTS_MOST = 10_000
BYTES_MOST = 8 * 1024 * 1024


class Events:
    """A numbered history. The first event has the number 1."""

    def __init__(self) -> None:
        self.last = 0
        self._kept: deque[bytes] = deque()
        self._bytes = 0
        self._waiters: list[asyncio.Future[None]] = []

    def add(self, event: dict[str, Any]) -> None:
        """Number an event and wake the watchers."""
        self.last += 1
        text = json.dumps({"seq": self.last, **event}, separators=(",", ":")).encode("ascii")
        self._kept.append(text)
        self._bytes += len(text)
        while len(self._kept) > EVENTS_MOST or self._bytes > BYTES_MOST:
            self._bytes -= len(self._kept.popleft())
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def after(self, seq: int) -> tuple[int, bytes] | None:
        """The first event known after `seq`: its number and its text, or None."""
        index = max(seq + 1, self.last - len(self._kept) + 1)
        if index > self.last:
            return None
        return index, self._kept[index - self.last - 1]

    async def changed(self, within: float) -> bool:
        """Wait for another event; false when none came `within` seconds."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(within):
                await waiter
        except TimeoutError:
            self._waiters.remove(waiter)
            return False
        return True
