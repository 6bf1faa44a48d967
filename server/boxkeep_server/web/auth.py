"""Who is asking: the key of a request, or the signed token of a URL."""

import asyncio
from urllib.parse import parse_qs

from boxkeep_server.model.errors import PermissionDenied, Unauthenticated, Unavailable
from boxkeep_server.model.ids import KEY_PATTERN
from boxkeep_server.model.scopes import Scope, permits
from boxkeep_server.web.parts import Caller, Parts
from boxkeep_server.web.tokens import Grant, Purpose

CHECK_S = 0.9
Headers = list[tuple[bytes, bytes]]


def key_of(headers: Headers) -> str:
    """The API key that a request carries.

    Raises:
        Unauthenticated: there is none, more than one, or it has not the form of a key.
    """
    given = [value for name, value in headers if name == b"authorization"]
    if len(given) != 1:
        raise Unauthenticated
    kind, _, key = given[0].decode("latin-1").partition(" ")
    if kind.lower() != "bearer" or not KEY_PATTERN.fullmatch(key.strip()):
        raise Unauthenticated
    return key.strip()


async def caller_by_key(headers: Headers, parts: Parts) -> Caller:
    """Whoever the request's key belongs to.

    Raises:
        Unauthenticated: no key, or one that is unknown, revoked or expired.
    """
    return await parts.keys.authenticate(key_of(headers))


def token_of(query: bytes) -> str:
    """The token in a query string; empty where it is missing, twice there or not text."""
    given = parse_qs(query.decode("latin-1")).get("token", [])
    return given[0] if len(given) == 1 else ""


async def caller_by_token(token: str, purpose: Purpose, parts: Parts) -> tuple[Caller, Grant]:
    """Whoever signed a URL's token, and what it opens; the key must still live.

    Raises:
        Unauthenticated: the token is not ours, for something else or too old, or its key is revoked or expired.
    """
    grant = parts.tokens.read(token, purpose)
    caller = await parts.keys.caller_of(grant.key_id)
    if caller.organisation != grant.organisation:
        raise Unauthenticated
    return caller, grant


async def until_revoked(key_id: str, scope: Scope, parts: Parts) -> None:
    """Return when a key may no longer do what asks for `scope`; seen within a second."""
    while True:
        await asyncio.sleep(CHECK_S)
        try:
            check_scope(await parts.keys.caller_of(key_id), scope)
        except (Unauthenticated, PermissionDenied):
            return
        except Unavailable:
            continue  # a store that is away revokes nothing


def check_scope(caller: Caller, scope: Scope) -> None:
    """Raise `PermissionDenied` unless the caller's key has the scope."""
    if not permits(caller.scopes, scope):
        raise PermissionDenied
