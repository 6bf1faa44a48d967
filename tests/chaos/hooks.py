"""Receivers of webhooks that listen through a storm: one that answers, and one that never does before the end."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos.facts import happenings
from tests.clients import Api
from tests.receivers import Receiver, receiving


class Listening(threading.Thread):
    """A receiver in a loop of its own."""

    def __init__(self) -> None:
        super().__init__(name="receiver")
        self.receiver = Receiver()
        self._up = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()

    def run(self) -> None:
        """Listen until `end`."""
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._listen())

    async def _listen(self) -> None:
        async with receiving() as self.receiver:
            self._up.set()
            await self._over.wait()

    def begin(self) -> None:
        """Listen from now on."""
        self.start()
        assert self._up.wait(10)

    def end(self) -> None:
        """Answer whoever still waits, and stop."""
        self._loop.call_soon_threadsafe(self._over.set)
        self.join()


@contextmanager
def told_everything(api: Api) -> Iterator[Receiver]:
    """Within it two webhooks of an organisation are sent all its events: `/ok` is answered, `/stall` never."""
    listening = Listening()
    listening.begin()
    made = []
    try:
        for path in ("/ok", "/stall"):
            answer = api.http.post("/v1/webhooks", json={"url": listening.receiver.url(path)})
            made.append(answer.raise_for_status().json()["id"])
        yield listening.receiver
    finally:
        for webhook in made:
            api.http.delete("/v1/webhooks", params={"id": webhook})
        listening.end()


def first_told(receiver: Receiver, path: str) -> dict[str, list[int]]:
    """By sandbox the sequences of what came to a path, in the order in which each came for the first time."""
    told: dict[str, dict[int, None]] = {}
    for said in receiver.told(path):
        told.setdefault(said["data"]["id"], {})[said["sequence"]] = None
    return {sandbox: list(sequences) for sandbox, sequences in told.items()}


def owed(api: Api, sandbox: str, public: frozenset[str]) -> list[int]:
    """The sequences of all events of a sandbox that webhooks are sent."""
    return [one["sequence"] for one in happenings(api, sandbox) if one["type"] in public]
