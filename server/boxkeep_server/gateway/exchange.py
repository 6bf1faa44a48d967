"""One request and its answer on their way through: both at once, each as fast as the slower side takes it."""

import asyncio
from collections.abc import Awaitable
from typing import Any, Final

import h11

from boxkeep_server.gateway.heads import ambiguous, mended
from boxkeep_server.gateway.peers import SWITCHING, Malformed, Peer
from boxkeep_server.gateway.refusals import answered_wrongly, bad_request, too_late
from boxkeep_server.gateway.streams import ClientGone, Stream
from boxkeep_server.model.errors import BoxkeepError, SandboxFault

QUIET_S: Final = 600.0
"""How long nothing may pass in either direction."""
PARTING_S: Final = 30.0
"""How long one side of a socket may go on when the other has ended."""
INTERIM_MOST: Final = 32


class Exchange:
    """Passes one request on, and its answer back. Use it once."""

    def __init__(self, client: Peer, inside: Peer, quiet_s: float = QUIET_S) -> None:
        self._client = client
        self._inside = inside
        self._quiet_s = quiet_s
        self._limit = asyncio.timeout(quiet_s)
        self.status: int | None = None

    async def run(self, request: h11.Request) -> None:
        """Pass everything on to its end. `request` is what the sandbox gets.

        Raises:
            Refusal: what the client should hear instead, if it has heard nothing yet.
            ClientGone: it has left.
            BoxkeepError: the sandbox is gone, or fails.
        """
        try:
            async with self._limit:
                await self._inside.send(request)
                await self._both()
                if self.status == SWITCHING:
                    await self._socket()
        except TimeoutError:
            if not self._limit.expired():
                raise
            raise too_late() from None

    async def _both(self) -> None:
        upward, downward = asyncio.create_task(self._upward()), asyncio.create_task(self._downward())
        try:
            await asyncio.wait((upward, downward), return_when=asyncio.FIRST_COMPLETED)
            if not downward.done():
                upward.result()
                raise ClientGone
            downward.result()
        finally:
            await _ended(upward, downward)

    async def _upward(self) -> None:
        """The request's body; then the client is listened to until it leaves."""
        try:
            if self._client.said_all:  # to another connection, which had closed before it heard
                await self._inside.send(h11.EndOfMessage())
            else:
                await self._body(self._client, self._inside)
        except Malformed as wrong:
            raise bad_request(f"{wrong.sentence}.", wrong.status) from wrong
        except BoxkeepError:
            pass  # what listens takes no more; its answer says why, if there is one
        await self._client.until_gone()

    async def _downward(self) -> None:
        """The answer: its head, and its body unless it changes the protocol."""
        try:
            response = await self._answer_head()
            self.status = response.status_code
            await self._client.send(response)
            if self.status != SWITCHING:
                await self._body(self._inside, self._client)
        except Malformed as wrong:
            raise answered_wrongly() from wrong
        except SandboxFault as fault:
            raise answered_wrongly() from fault

    async def _answer_head(self) -> h11.Response | h11.InformationalResponse:
        for _ in range(INTERIM_MOST):
            event = await self._inside.next_event()
            self._heard()
            if isinstance(event, h11.Response):
                if ambiguous(event):
                    raise Malformed("The answer can be read in two ways")
                return h11.Response(status_code=event.status_code, reason=event.reason, headers=mended(event))
            if not isinstance(event, h11.InformationalResponse):
                raise Malformed("There is no answer")
            interim = h11.InformationalResponse(
                status_code=event.status_code, reason=event.reason, headers=mended(event)
            )
            if event.status_code == SWITCHING:
                return interim
            if self._client.takes_interim_answers:
                await self._client.send(interim)
        raise Malformed("There is no end of interim answers")

    async def _body(self, source: Peer, sink: Peer) -> None:
        while True:
            event = await source.next_event()
            self._heard()
            match event:
                case h11.Data():
                    await sink.send(h11.Data(data=event.data))
                case h11.EndOfMessage():
                    await sink.send(h11.EndOfMessage())
                    return
                case _:
                    raise Malformed("The body has no end")

    async def _socket(self) -> None:
        """After a change of protocol: bytes, until both sides have ended or one is gone."""
        client, inside = self._client, self._inside
        pumps = [
            asyncio.create_task(self._pump(client.left_over, client.stream, inside.stream)),
            asyncio.create_task(self._pump(inside.left_over, inside.stream, client.stream)),
        ]
        try:
            done, rest = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in done:
                pump.result()
            if rest:
                await asyncio.wait(rest, timeout=PARTING_S)
        finally:
            await _ended(*pumps)

    async def _pump(self, first: bytes, source: Stream, sink: Stream) -> None:
        data = first or await source.read()
        while data:
            self._heard()
            await sink.write(data)
            data = await source.read()
        await sink.end()

    def _heard(self) -> None:
        """Something has passed; the silence begins anew."""
        if not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time() + self._quiet_s)


async def _ended(*tasks: "asyncio.Task[Any]") -> None:
    for task in tasks:
        task.cancel()
    waiting: Awaitable[Any] = asyncio.gather(*tasks, return_exceptions=True)
    await waiting
