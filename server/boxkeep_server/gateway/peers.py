"""One side of the gateway as HTTP/1.1: events in and out, with bounds on heads and on how long we work at a stretch."""

import asyncio
from typing import Final, TypeAlias

import h11

from boxkeep_server.gateway.streams import Stream

HEAD_MOST: Final = 32 * 1024
LINES_MOST: Final = 200
GATHERED_MOST: Final = 64 * 1024
EVENTS_AT_A_STRETCH: Final = 64
SWITCHING: Final = 101
"""The interim answer after which there is no HTTP any more."""

Event: TypeAlias = h11.Event | type[h11.PAUSED]


class Malformed(Exception):
    """What a peer sent is not HTTP/1.1 within our bounds. `status` is what a client should hear of its own fault."""

    def __init__(self, sentence: str, status: int = 400) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.status = status


class HeadGuard:
    """Bounds a head before anything is built from it: its size, and its lines, of which each costs time to parse."""

    def __init__(self) -> None:
        self._seen = bytearray()
        self.whole = False

    def feed(self, data: bytes) -> None:
        """Take what has come.

        Raises:
            Malformed: the head is too large.
        """
        if self.whole:
            return
        begin = max(0, len(self._seen) - 3)
        self._seen += data
        ends = [at for mark in (b"\n\r\n", b"\n\n") if (at := self._seen.find(mark, begin)) >= 0]
        size = min(ends, default=len(self._seen))
        if size > HEAD_MOST or self._seen.count(b"\n", 0, size) > LINES_MOST:
            raise Malformed(f"The head has more than {HEAD_MOST} bytes or {LINES_MOST} lines", 431)
        self.whole = bool(ends)


class Peer:
    """A side. `role` is the one that we play towards it; one task reads, one writes."""

    def __init__(self, stream: Stream, role: type[h11.CLIENT] | type[h11.SERVER]) -> None:
        self.stream = stream
        self.heard = False
        self._http = h11.Connection(role, max_incomplete_event_size=HEAD_MOST)
        self._guard = HeadGuard()
        self._kept: Event | type[h11.NEED_DATA] | None = None
        self._worked = 0

    @property
    def reusable(self) -> bool:
        """Whether a request and its answer have both come to their ends, and another may follow."""
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    @property
    def answered(self) -> bool:
        """Whether we have begun to answer, and can say nothing else any more."""
        return self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE)

    @property
    def said_all(self) -> bool:
        """Whether the peer's message has come to its end."""
        return self._http.their_state is not h11.SEND_BODY

    @property
    def takes_interim_answers(self) -> bool:
        """Whether it knows of answers before the answer."""
        return (self._http.their_http_version or b"1.0") >= b"1.1"

    @property
    def left_over(self) -> bytes:
        """What has come behind the last event, after a change of protocol."""
        return self._http.trailing_data[0]

    def next_cycle(self) -> None:
        """Begin with another request."""
        self._http.start_next_cycle()
        self.heard = False
        self._expect_head()

    async def next_event(self) -> Event:
        """The next event; what a body has brought in many small pieces comes as one.

        Raises:
            Malformed: what came is not HTTP/1.1 within our bounds.
        """
        while True:
            event = self._take()
            if isinstance(event, h11.Data):
                return await self._gathered(event)
            if isinstance(event, h11.InformationalResponse) and event.status_code != SWITCHING:
                self._expect_head()
            if isinstance(event, h11.Event) or event is h11.PAUSED:
                return event
            await self._fill()

    async def send(self, event: h11.Event) -> None:
        """Send an event."""
        data = self._http.send(event)
        if data:
            await self.stream.write(data)

    async def until_gone(self) -> None:
        """Return when the peer has closed. What it sends ahead is read once, and then it is not listened to."""
        data = await self.stream.read()
        if data:
            self._http.receive_data(data)
            await asyncio.get_running_loop().create_future()

    def _expect_head(self) -> None:
        self._guard = HeadGuard()
        self._guard.feed(self._http.trailing_data[0])

    async def _fill(self) -> None:
        self._worked = 0
        data = await self.stream.read()
        self.heard = self.heard or bool(data)
        self._guard.feed(data)
        self._http.receive_data(data)

    def _take(self) -> Event | type[h11.NEED_DATA]:
        if self._kept is not None:
            kept, self._kept = self._kept, None
            return kept
        self._worked += 1
        try:
            return self._http.next_event()
        except h11.RemoteProtocolError as error:
            raise Malformed(f"It is not HTTP/1.1 as we take it: {error}", error.error_status_hint) from error

    async def _gathered(self, first: h11.Data) -> h11.Data:
        """That data, and what else is there already. Small pieces cost us more than they cost who sends them, so that
        others have their turn after a number of them."""
        data = bytearray(first.data)
        while len(data) < GATHERED_MOST and self._worked < EVENTS_AT_A_STRETCH:
            event = self._take()
            if not isinstance(event, h11.Data):
                self._kept = event
                break
            data += event.data
        if self._worked >= EVENTS_AT_A_STRETCH:
            self._worked = 0
            await asyncio.sleep(0)
        return h11.Data(data=bytes(data))
