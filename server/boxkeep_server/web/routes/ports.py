"""Ports: what listens in a sandbox, how it is reached, and who may reach it."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated
from urllib.parse import quote

from pydantic import Field
from starlette.responses import Response

from boxkeep_server.control.previews import Listener
from boxkeep_server.model.previews import PARAMETER, Place
from boxkeep_server.model.rates import CallKind
from boxkeep_server.model.scopes import Scope, permits
from boxkeep_server.web import shapes
from boxkeep_server.web.fields import Fields, Nothing, Query, QueryInt, Text
from boxkeep_server.web.operations import Answer, AnyOperation, Call, Operation
from boxkeep_server.web.tokens import Purpose
from boxkeep_server.web.views import json_response

PATH = "/v1/sandboxes/ports"


class PortsQuery(Query):
    """All ports of a sandbox that are of interest, or one, whether anything listens on it or not."""

    id: Annotated[Text, Field(min_length=1)]
    port: Annotated[QueryInt, Field(ge=1, le=65535)] | None = None


class PublishBody(Fields):
    """Who may open a port."""

    id: Annotated[Text, Field(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)]
    public: bool


async def ports(call: Call, query: PortsQuery, _: Nothing) -> Response:
    """What listens, and what is public."""
    listening = defaultdict(list)
    for one in await call.parts.previews.listeners(call.caller, query.id):
        listening[one.port].append(one)
    public = await call.parts.previews.public(query.id)
    shown = {query.port} if query.port is not None else {*listening, *public}
    items = [_port(call, Place(query.id, port), listening.get(port, ()), port in public) for port in sorted(shown)]
    return json_response({"id": query.id, "ports": items})


async def publish(call: Call, _: Nothing, body: PublishBody) -> Response:
    """Make a port public, or private again."""
    await call.parts.previews.publish(call.caller, body.id, body.port, public=body.public)
    url = call.parts.preview_urls.of(Place(body.id, body.port))
    return json_response({"id": body.id, "port": body.port, "public": body.public, "url": url})


def _port(call: Call, place: Place, listening: Sequence[Listener], public: bool) -> dict[str, object]:
    known = next((one for one in listening if one.pid is not None), None)
    return {
        "port": place.port,
        "listening": bool(listening),
        "addresses": sorted({str(one.address) for one in listening}),
        "pid": None if known is None else known.pid,
        "process": None if known is None else known.process,
        "public": public,
        "url": call.parts.preview_urls.of(place),
        **_signed(call, place),
    }


def _signed(call: Call, place: Place) -> dict[str, object]:
    """A URL with a token, for a key that may have it."""
    if not permits(call.caller.scopes, Scope.EXEC):
        return {"signedUrl": None, "token": None, "expiresAt": None}
    caller = call.caller
    token, expires_at = call.parts.tokens.sign(
        caller.organisation, place.sandbox, Purpose.PREVIEW, caller.key_id, str(place.port)
    )
    url = f"{call.parts.preview_urls.of(place)}/?{PARAMETER}={quote(token)}"
    return {"signedUrl": url, "token": token, "expiresAt": expires_at}


OPERATIONS: tuple[AnyOperation, ...] = (
    Operation(
        method="GET",
        path=PATH,
        name="listPorts",
        summary="List what listens in a sandbox",
        description="TCP ports on which programs in the sandbox take connections, and its public ones, each with the "
        "URL at which the gateway serves it by HTTP and WebSocket. `signedUrl` opens it in a browser within five "
        "minutes, and the cookie that it is exchanged for goes on for twelve hours; programs may send the token in "
        "the header `X-Boxkeep-Token`. With `port` that one alone, whether anything listens on it yet or not.",
        scope=Scope.READ,
        kind=CallKind.READ,
        handler=ports,
        query=PortsQuery,
        body=Nothing,
        answers={200: Answer("The ports.", shapes.PortList)},
        faults=frozenset({404, 409, 501, 502, 503, 504}),
        tag="previews",
    ),
    Operation(
        method="POST",
        path=PATH,
        name="publishPort",
        summary="Make a port public, or private again",
        description="Everybody who knows its URL may open a public port, without token and cookie. Made private again, "
        "what is open without a token is closed within a second. It holds for the sandbox's life, over pauses; a fork "
        "begins with none. Again is fine.",
        scope=Scope.MANAGE,
        kind=CallKind.CREATE,
        handler=publish,
        query=Nothing,
        body=PublishBody,
        answers={200: Answer("It is so.", shapes.PublicPortShape)},
        faults=frozenset({404, 409}),
        tag="previews",
    ),
)
