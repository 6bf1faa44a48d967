"""Wake-ups inside the process: hints that something has changed, which may be lost without harm."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Ear:
    """Hears of one topic while it is held."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def wake(self) -> None:
        """Say that something has changed."""
        self._event.set()

    async def heard(self, within_s: float) -> bool:
        """Return at the next hint since the last return, or when the time is up; whether there was a hint."""
        try:
            async with asyncio.timeout(within_s):
                await self._event.wait()
        except TimeoutError:
            return False
        finally:
            self._event.clear()
        return True


class Changes:
    """Topics are ids of sandboxes and names of reconcilers."""

    def __init__(self) -> None:
        self._ears: dict[str, set[Ear]] = {}

    def tell(self, *topics: str) -> None:
        """Wake all who listen to any of these."""
        for topic in topics:
            for ear in self._ears.get(topic, ()):
                ear.wake()

    @contextmanager
    def listen(self, *topics: str) -> Iterator[Ear]:
        """An ear for these topics. Listen first and read then, and no change is missed."""
        ear = Ear()
        for topic in topics:
            self._ears.setdefault(topic, set()).add(ear)
        try:
            yield ear
        finally:
            for topic in topics:
                self._ears[topic].discard(ear)
                if not self._ears[topic]:
                    del self._ears[topic]
