"""The outermost layer: request ids, error bodies, security headers, the access log and the counters."""

import logging
import secrets
import time

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from boxkeep_server.model.errors import BoxkeepError
from boxkeep_server.web.errors import internal_error, response_of
from boxkeep_server.web.metrics import Metrics

LOG = logging.getLogger("boxkeep.web")
ACCESS = logging.getLogger("boxkeep.access")
ROUTE = "boxkeep.route"
REQUEST_ID = "boxkeep.request_id"
_BEGINNINGS = ("http.response.start", "websocket.accept", "websocket.http.response.start")
UNKNOWN_ROUTE = "unknown"
OPENED = 101


class Broken(Exception):
    """A response that has begun cannot be finished; the connection must not look as if it had been."""


class Edge:
    """Wraps the API: nothing but the contract's shapes leaves, whatever happens within."""

    def __init__(self, inner: ASGIApp, metrics: Metrics) -> None:
        self._inner = inner
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, WebSocket or lifespan."""
        outlet = _Outlet(send, secrets.token_hex(16))
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, outlet)
        elif scope["type"] == "websocket":
            await self._socket(scope, receive, outlet)
        else:
            await self._request(scope, receive, outlet)

    async def _socket(self, scope: Scope, receive: Receive, outlet: "_Outlet") -> None:
        """Logged when it ends, by its path: the query has its token."""
        began = time.perf_counter()
        try:
            await self._inner(scope, receive, outlet)
        finally:
            path = scope["path"] if outlet.status == OPENED else UNKNOWN_ROUTE
            seconds = time.perf_counter() - began
            ACCESS.info("WEBSOCKET %s %d %.1fms %s", path, outlet.status, seconds * 1e3, outlet.request_id)

    async def _request(self, scope: Scope, receive: Receive, outlet: "_Outlet") -> None:
        scope[REQUEST_ID] = outlet.request_id
        began = time.perf_counter()
        try:
            await self._guarded(scope, receive, outlet)
        finally:
            seconds = time.perf_counter() - began
            route = scope.get(ROUTE, UNKNOWN_ROUTE)
            self._metrics.count(scope["method"], route, outlet.status, seconds)
            ACCESS.info("%s %s %d %.1fms %s", scope["method"], route, outlet.status, seconds * 1e3, outlet.request_id)

    async def _guarded(self, scope: Scope, receive: Receive, outlet: "_Outlet") -> None:
        try:
            await self._inner(scope, receive, outlet)
        except BoxkeepError as error:
            await outlet.instead(response_of(error), scope, receive)
        except (ClientDisconnect, Broken, ConnectionError) as gone:
            LOG.info("request %s ended early: %s", outlet.request_id, type(gone).__name__)
        except Exception:  # the one place where a bug of ours meets a client
            LOG.exception("request %s failed on %s", outlet.request_id, scope.get(ROUTE, UNKNOWN_ROUTE))
            await outlet.instead(internal_error(outlet.request_id), scope, receive)


class _Outlet:
    """The way out of one request: adds the headers that every response has, and knows whether it has begun."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.status = 499
        self.begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] in _BEGINNINGS:
            self.begun = True
            self.status = message.get("status", OPENED)
            message["headers"] = [
                *message.get("headers", ()),
                (b"x-request-id", self.request_id.encode()),
                (b"x-content-type-options", b"nosniff"),
            ]
        await self._send(message)

    async def instead(self, response: ASGIApp, scope: Scope, receive: Receive) -> None:
        """Send an error, unless the response has begun: then the connection breaks off, which clients notice."""
        if not self.begun:
            await response(scope, receive, self)
