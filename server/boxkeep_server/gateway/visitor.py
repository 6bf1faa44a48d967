"""One client's connection: its requests one after the other, each checked, passed on and answered."""

import asyncio
import logging
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import h11

from boxkeep_server.control.presence import Presence
from boxkeep_server.control.previews import NothingListens, Previews
from boxkeep_server.gateway.entrance import Admission, Entrance
from boxkeep_server.gateway.exchange import Exchange
from boxkeep_server.gateway.heads import Origin, check_request, forwarded, text, values
from boxkeep_server.gateway.peers import Malformed, Peer
from boxkeep_server.gateway.refusals import (
    Refusal,
    bad_request,
    body_of,
    no_entry,
    not_running,
    nothing_listens,
    refusal_of,
    unknown_host,
)
from boxkeep_server.gateway.room import Room
from boxkeep_server.gateway.streams import ClientGone, ClientStream, PortStream
from boxkeep_server.gateway.vigil import Vigil, Withdrawn
from boxkeep_server.model.errors import BoxkeepError, NotReady
from boxkeep_server.model.previews import Place, PreviewUrls
from boxkeep_server.model.sandboxes import Sandbox

HEAD_S: Final = 20.0
"""How long a client may take for a head, the waiting for its first byte included."""
LOG = logging.getLogger("boxkeep.gateway")
ACCESS = logging.getLogger("boxkeep.previews")


@dataclass(frozen=True, slots=True)
class Doors:
    """What every visitor passes through. `believed`: who connects to us is a server of the operator's."""

    urls: PreviewUrls
    entrance: Entrance
    vigil: Vigil
    previews: Previews
    presence: Presence
    room: Room
    believed: bool
    head_s: float = HEAD_S


class Visitor:
    """A connection. Its connection into a sandbox is nobody else's, and ends with it."""

    def __init__(self, doors: Doors, stream: ClientStream, address: str) -> None:
        self._doors = doors
        self._stream = stream
        self._client = Peer(stream, h11.SERVER)
        self._origin = Origin(address, doors.urls.scheme, doors.believed)
        self._kept: tuple[Place, PortStream, Peer] | None = None

    async def run(self) -> None:
        """Serve to the end."""
        try:
            while await self._serve_one():
                self._client.next_cycle()
            await self._stream.part()
        except (ClientGone, Malformed):
            return
        except Exception:  # a bug of ours, which a client is told of by no more than an end
            LOG.exception("a preview's connection failed")
        finally:
            self._stream.abort()
            await self._drop_kept()

    async def _serve_one(self) -> bool:
        """Serve a request; whether there may be another."""
        began, request = time.perf_counter(), None
        try:
            request = await self._request()
            if request is None:
                return False
            began = time.perf_counter()
            status = await self._serve(request)
        except Refusal as refusal:
            if self._client.answered:
                raise ClientGone from refusal
            await self._refuse(request, refusal)
            status = refusal.status
        method = "-" if request is None else request.method.decode("latin-1")[:20]
        ACCESS.info("%s %s %.1fms", method, status, (time.perf_counter() - began) * 1e3)
        return self._client.reusable

    async def _request(self) -> h11.Request | None:
        """The next request, None where the client wants no more."""
        try:
            async with asyncio.timeout(self._doors.head_s):
                event = await self._client.next_event()
        except TimeoutError:
            if not self._client.heard:
                return None
            raise bad_request("The head did not arrive in time.", 408) from None
        except Malformed as wrong:
            raise bad_request(f"{wrong.sentence}.", wrong.status) from wrong
        return event if isinstance(event, h11.Request) else None

    async def _serve(self, request: h11.Request) -> int:
        check_request(request)
        place = self._doors.urls.place(text(request, b"host"))
        if place is None:
            raise unknown_host()
        try:
            admission, sandbox = await self._doors.entrance.admit(place, request)
            try:
                return await self._visit(admission, sandbox, request)
            except NotReady:
                raise not_running(await self._doors.previews.sandbox(sandbox.id) or sandbox) from None
        except Withdrawn:
            raise no_entry() from None
        except NothingListens:
            raise nothing_listens(place.port) from None
        except BoxkeepError as error:
            raise refusal_of(error) from error

    async def _visit(self, admission: Admission, sandbox: Sandbox, request: h11.Request) -> int:
        doors = self._doors
        with doors.room.taken(sandbox.id, sandbox.organisation), doors.presence.at(sandbox.id):
            async with doors.vigil.while_admitted(admission):
                return await self._pass_on(admission, sandbox, request)

    async def _pass_on(self, admission: Admission, sandbox: Sandbox, request: h11.Request) -> int:
        self._doors.previews.used(sandbox)
        passed = forwarded(request, self._origin)
        kept = await self._take_kept(admission.place)
        if kept is None:
            return await self._through(*await self._dial(admission, sandbox), admission.place, passed)
        try:
            return await self._through(*kept, admission.place, passed)
        except (Refusal, BoxkeepError):
            if kept[1].heard or self._client.answered or not _may_be_repeated(request):
                raise
        # What listens had closed just as it was asked again, and has not seen the request.
        return await self._through(*await self._dial(admission, sandbox), admission.place, passed)

    async def _dial(self, admission: Admission, sandbox: Sandbox) -> tuple[PortStream, Peer]:
        stream = PortStream(await self._doors.previews.dial(sandbox, admission.place.port, admission.actor))
        return stream, Peer(stream, h11.CLIENT)

    async def _through(self, stream: PortStream, inside: Peer, place: Place, request: h11.Request) -> int:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(stream.close)
            exchange = Exchange(self._client, inside)
            await exchange.run(request)
            if self._client.reusable and _is_clean(inside) and self._doors.room.keeps(place.sandbox):
                inside.next_cycle()
                self._kept = (place, stream, inside)
                stack.pop_all()
        return exchange.status or 0

    async def _take_kept(self, place: Place) -> tuple[PortStream, Peer] | None:
        """The connection of the last request, where it leads to the same place and is open still."""
        if self._kept is None or self._kept[0] != place or not self._kept[1].quiet:
            await self._drop_kept()
            return None
        (_, stream, inside), self._kept = self._kept, None
        self._doors.room.let_go(place.sandbox)
        return stream, inside

    async def _drop_kept(self) -> None:
        if self._kept is not None:
            (place, stream, _), self._kept = self._kept, None
            self._doors.room.let_go(place.sandbox)
            await stream.close()

    async def _refuse(self, request: h11.Request | None, refusal: Refusal) -> None:
        """Answer by ourselves. A body that is still on its way is not waited for."""
        for_people = request is not None and "text/html" in text(request, b"accept")
        headers, body = body_of(refusal, for_people=for_people)
        closing = request is None or _has_body(request)
        whole = [*headers, ("Content-Length", str(len(body))), *([("Connection", "close")] if closing else [])]
        await self._client.send(
            h11.Response(status_code=refusal.status, reason=HTTPStatus(refusal.status).phrase, headers=whole)
        )
        if request is None or request.method != b"HEAD":
            await self._client.send(h11.Data(data=body))
        await self._client.send(h11.EndOfMessage())
        if not self._client.said_all and not closing:
            await self._client.next_event()  # the end of the request


def _is_clean(inside: Peer) -> bool:
    """Whether nothing of an answer is left over, or of one that nobody asked for."""
    return inside.reusable and not inside.left_over


def _has_body(request: h11.Request) -> bool:
    return bool(values(request, b"transfer-encoding")) or text(request, b"content-length") not in ("", "0")


def _may_be_repeated(request: h11.Request) -> bool:
    return request.method in (b"GET", b"HEAD", b"OPTIONS") and not _has_body(request)
