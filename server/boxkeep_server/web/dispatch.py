"""From a request to its operation, with the checks in the contract's order."""

import asyncio
import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from boxkeep_server.model.errors import Invalid, NotFound, Unauthenticated
from boxkeep_server.web.auth import caller_by_key, caller_by_token, check_scope, token_of, until_revoked
from boxkeep_server.web.edge import ROUTE
from boxkeep_server.web.errors import MethodNotAllowed
from boxkeep_server.web.event_streams import Streamed
from boxkeep_server.web.fields import Fields, Nothing, check_fields, parse_query
from boxkeep_server.web.idempotent import answer_once, key_of
from boxkeep_server.web.json_bodies import check_content_type, parse_object, read_body
from boxkeep_server.web.operations import AnyOperation, Call, OpenOperation
from boxkeep_server.web.parts import Caller, Parts
from boxkeep_server.web.viewer.pages import Pages
from boxkeep_server.web.viewer.urls import PAGE_PATH

BODY_SECONDS = 60


class Dispatch:
    """The HTTP side of the API: 404 and 405, then 401, rate, body, form, scope, and the operation itself."""

    def __init__(self, operations: Iterable[AnyOperation], opened: Iterable[OpenOperation], parts: Parts) -> None:
        self._parts = parts
        self._pages = Pages(parts.novnc)
        self._opened = {operation.path: operation for operation in opened}
        self._routes: dict[str, dict[str, AnyOperation]] = {}
        for operation in operations:
            self._routes.setdefault(operation.path, {})[operation.method] = operation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        request = Request(scope, receive)
        response = await self._answer(request, scope)
        await response(scope, receive, send)

    async def _answer(self, request: Request, scope: Scope) -> Response:
        path, method = scope["path"], scope["method"]
        if opened := self._opened.get(path):
            scope[ROUTE] = path
            if method not in ("GET", "HEAD"):
                raise MethodNotAllowed(method, path, ("GET", "HEAD"))
            return await opened.handler(request, self._parts)
        if path.startswith(PAGE_PATH):
            scope[ROUTE] = PAGE_PATH
            if method not in ("GET", "HEAD"):
                raise MethodNotAllowed(method, path, ("GET", "HEAD"))
            return self._pages.answer(path)
        methods = self._routes.get(path)
        if methods is None:
            raise NotFound(f"There is nothing at {path[:200]}")
        scope[ROUTE] = path
        operation = methods.get(method)
        if operation is None:
            raise MethodNotAllowed(method[:20], path, tuple(methods))
        return await self._perform(operation, request, scope)

    async def _perform(self, operation: AnyOperation, request: Request, scope: Scope) -> Response:
        caller, fields = await self._caller(operation, request, scope)
        await self._parts.rates.take(caller.organisation, operation.kind)
        raw = b"" if operation.raw or operation.method in ("GET", "HEAD") else await self._body(operation, request)
        query = fields if fields is not None else parse_query(operation.query, scope["query_string"])
        body = self._checked(operation, caller, raw, request)
        key = key_of(request) if operation.method == "POST" else None
        check_scope(caller, operation.scope)
        call = Call(request, caller, self._parts)
        response = await self._respond(operation, call, key, query, body, scope["query_string"] + b"\0" + raw)
        if isinstance(response, Streamed):
            response.end_when(lambda: until_revoked(caller.key_id, operation.scope, self._parts))
        return response

    async def _respond(
        self, operation: AnyOperation, call: Call, key: str | None, query: Fields, body: Fields, said: bytes
    ) -> Response:
        if key is None:
            return await operation.handler(call, query, body)
        fingerprint = hashlib.sha256(said).hexdigest()

        async def once(effect: str | None) -> Response:
            return await operation.handler(replace(call, effect=effect), query, body)

        return await answer_once(call, operation, key, fingerprint, once)

    async def _caller(self, operation: AnyOperation, request: Request, scope: Scope) -> tuple[Caller, Fields | None]:
        """Whoever asks; and the query, where a token in it had to be read for that."""
        if operation.token is None or b"token=" not in scope["query_string"]:
            return await caller_by_key(scope["headers"], self._parts), None
        caller, grant = await caller_by_token(token_of(scope["query_string"]), operation.token, self._parts)
        query: Any = parse_query(operation.query, scope["query_string"])
        if (query.id, query.bound) != (grant.sandbox, grant.bound):
            raise Unauthenticated
        return caller, query

    async def _body(self, operation: AnyOperation, request: Request) -> bytes:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await read_body(request, operation.body_limit)
        except TimeoutError as late:
            raise Invalid(f"The request's body did not arrive within {BODY_SECONDS} s") from late

    def _checked(self, operation: AnyOperation, caller: Caller, raw: bytes, request: Request) -> Fields:
        if raw and operation.takes_json:
            check_content_type(request)
        if raw and operation.body is Nothing and not operation.raw:
            raise Invalid(f"{operation.method} {operation.path} takes no body")
        body: Fields = check_fields(operation.body, parse_object(raw))
        if operation.check is not None:
            operation.check(caller, body)
        return body
