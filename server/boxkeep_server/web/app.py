"""Puts the API together: edge, dispatch, terminals, lifespan."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import cache
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from boxkeep_server.model.errors import NotFound
from boxkeep_server.web.cdp import SOCKET_PATH as CDP_PATH
from boxkeep_server.web.cdp import CdpSocket
from boxkeep_server.web.dispatch import Dispatch
from boxkeep_server.web.edge import Edge
from boxkeep_server.web.errors import response_of
from boxkeep_server.web.openapi import document
from boxkeep_server.web.parts import Parts
from boxkeep_server.web.routes import (
    agents,
    artifacts,
    browsers,
    checkpoints,
    commands,
    documents,
    events,
    files,
    handoffs,
    ports,
    processes,
    sandboxes,
    service,
    terminals,
    timeline,
    transfers,
    usage,
    webhooks,
)
from boxkeep_server.web.terminal_urls import SOCKET_PATH
from boxkeep_server.web.viewer import urls as viewer_urls
from boxkeep_server.web.viewer.socket import ViewerSocket

OPERATIONS = (
    *sandboxes.OPERATIONS,
    *events.OPERATIONS,
    *commands.OPERATIONS,
    *processes.OPERATIONS,
    *terminals.OPERATIONS,
    *files.OPERATIONS,
    *transfers.OPERATIONS,
    *timeline.OPERATIONS,
    *artifacts.OPERATIONS,
    *checkpoints.OPERATIONS,
    *ports.OPERATIONS,
    *browsers.OPERATIONS,
    *handoffs.OPERATIONS,
    *documents.OPERATIONS,
    *webhooks.OPERATIONS,
    *usage.OPERATIONS,
    *agents.OPERATIONS,
)

Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]


@cache
def described() -> dict[str, Any]:
    """The OpenAPI document of this API, which nobody changes: to make it takes longer than all the rest of the API."""
    return document(OPERATIONS, (*service.OPERATIONS, service.described({})))


class Api:
    """HTTP to the dispatch, WebSockets to terminals, browsers and viewers, everything else refused."""

    def __init__(self, parts: Parts) -> None:
        shown = service.described(described())
        self._dispatch = Dispatch(OPERATIONS, (*service.OPERATIONS, shown), parts)
        self._terminals = terminals.TerminalSocket(parts)
        self._browsers = CdpSocket(parts)
        self._viewers = ViewerSocket(parts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection."""
        if scope["type"] == "http":
            await self._dispatch(scope, receive, send)
        elif scope["path"] == SOCKET_PATH:
            await self._terminals(scope, receive, send)
        elif scope["path"] == CDP_PATH:
            await self._browsers(scope, receive, send)
        elif scope["path"] == viewer_urls.SOCKET_PATH:
            await self._viewers(scope, receive, send)
        else:
            nothing = NotFound(f"There is nothing at {scope['path'][:200]}")
            await WebSocket(scope, receive, send).send_denial_response(response_of(nothing))


def build(parts: Parts, lifespan: Lifespan | None = None) -> Starlette:
    """The ASGI application. `lifespan` is entered before the first request and left after the last.

    Serve it with uvicorn's access log off and its other log at warnings (their lines hold query strings, and those hold
    tokens) and without a `Server` or `Date` promise of ours; the application logs accesses itself, without queries.
    """
    return Starlette(routes=[Mount("/", app=Edge(Api(parts), parts.metrics))], lifespan=lifespan)
