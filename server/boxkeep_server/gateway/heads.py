"""Heads as they are passed on: what belongs to one hop, what is ours, and what a sandbox may not say to a browser."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_plus

import h11

from boxkeep_server.gateway.refusals import bad_request
from boxkeep_server.model.ids import KEY_PATTERN
from boxkeep_server.model.previews import PARAMETER

TOKEN_HEADER: Final = b"x-boxkeep-token"
COOKIES: Final = ("__Host-boxkeep_preview", "boxkeep_preview")
"""Names of our cookie: by TLS, and without."""

VERSIONS: Final = (b"1.0", b"1.1")
_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"te", b"trailer", b"upgrade"}
)
_KEPT: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"cookie", b"authorization"})
"""What a `Connection` header cannot take away."""
_SPOKEN_FOR: Final = frozenset({b"forwarded", b"x-real-ip"})
_FORBIDDEN: Final = frozenset(
    {b"service-worker-allowed", b"clear-site-data", b"strict-transport-security", b"alt-svc", b"proxy-authenticate"}
)
"""What an answer could bind a browser by beyond its own page, or beyond its sandbox's life."""

Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request comes from: the client's address, and the URL's scheme. `believed`: a server of ours stands
    before us, so that what the request says of its way is true."""

    address: str
    scheme: str
    believed: bool


def values(message: h11.Request | h11.Response | h11.InformationalResponse, name: bytes) -> list[bytes]:
    """All values of a header."""
    return [value for found, value in message.headers if found == name]


def text(request: h11.Request, name: bytes) -> str:
    """The one value of a header, empty where there is none."""
    found = values(request, name)
    return found[0].decode("latin-1") if len(found) == 1 else ""


def check_request(request: h11.Request) -> None:
    """Refuse what another server could read otherwise than we do.

    Raises:
        Refusal
    """
    if request.http_version not in VERSIONS:
        raise bad_request("HTTP/1.1 is spoken here", 505)
    if request.method in (b"CONNECT", b"TRACE"):
        raise bad_request(f"{request.method.decode()} is not passed on", 405)
    if not request.target.startswith(b"/") and (request.method, request.target) != (b"OPTIONS", b"*"):
        raise bad_request("The request's target has to be a path")
    if _two_lengths(request) or (request.http_version < b"1.1" and values(request, b"transfer-encoding")):
        raise bad_request("The length of the request's body is said in two ways")


def ambiguous(response: h11.Response) -> bool:
    """Whether a browser could read an answer otherwise than we do."""
    return response.http_version not in VERSIONS or _two_lengths(response)


def _two_lengths(message: h11.Request | h11.Response) -> bool:
    return bool(values(message, b"content-length") and values(message, b"transfer-encoding"))


def asks_for_socket(request: h11.Request) -> bool:
    """Whether a request wants to go on as a WebSocket."""
    return b"upgrade" in _tokens(request) and text(request, b"upgrade").lower() == "websocket"


def forwarded(request: h11.Request, origin: Origin) -> h11.Request:
    """A request as the sandbox gets it: without what is ours, and with where it came from."""
    socket = asks_for_socket(request)
    passed = [header for header in _end_to_end(request) if _is_the_sandboxes(header[0].lower())]
    kept = [header for header in map(_without_ours, passed) if header is not None]
    connection = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")] if socket else []
    return h11.Request(
        method=request.method,
        target=without_token(request.target),
        headers=[*kept, *_way(request, origin), *connection],
    )


def mended(response: h11.Response | h11.InformationalResponse) -> list[Header]:
    """The headers of an answer as the browser gets them."""
    socket = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")] if response.status_code == 101 else []
    found = [header for header in _end_to_end(response) if header[0].lower() not in _FORBIDDEN]
    return [*_cookies_mended(found), *socket]


def token_in(target: bytes) -> str:
    """The token in a target's query, empty where there is none or more than one."""
    found = [value for name, value in _parameters(target) if name == PARAMETER]
    return unquote_plus(found[0]) if len(found) == 1 else ""


def without_token(target: bytes) -> bytes:
    """A target without our parameter, else as it is to the byte."""
    path, mark, query = target.partition(b"?")
    if not mark or PARAMETER.encode() not in query:
        return target
    kept = [part for part in query.split(b"&") if unquote_plus(part.partition(b"=")[0].decode("latin-1")) != PARAMETER]
    return path + b"?" + b"&".join(kept) if kept else path


def cookies_in(request: h11.Request) -> Iterator[tuple[str, str]]:
    """The cookies of a request by name."""
    for header in values(request, b"cookie"):
        for part in header.decode("latin-1").split(";"):
            name, _, value = part.strip().partition("=")
            yield name, value


def _parameters(target: bytes) -> Iterator[tuple[str, str]]:
    for part in target.partition(b"?")[2].decode("latin-1").split("&"):
        name, _, value = part.partition("=")
        yield unquote_plus(name), value


def _tokens(message: h11.Request | h11.Response | h11.InformationalResponse) -> set[bytes]:
    """What a message says of its connection."""
    return {token.strip().lower() for value in values(message, b"connection") for token in value.split(b",")}


def _end_to_end(message: h11.Request | h11.Response | h11.InformationalResponse) -> list[Header]:
    """A message's headers but those of one hop, their names written as they came."""
    gone = (_tokens(message) - _KEPT) | _HOP
    return [(name, value) for name, value in message.headers.raw_items() if name.lower() not in gone]


def _is_the_sandboxes(name: bytes) -> bool:
    return not name.startswith((b"x-boxkeep-", b"x-forwarded-")) and name not in _SPOKEN_FOR


def _without_ours(header: Header) -> Header | None:
    """A header without our token, cookie or key, None where nothing is left of it."""
    name, value = header
    match name.lower():
        case b"cookie":
            kept = [part.strip() for part in value.split(b";") if part.strip() and not _is_our_cookie(part)]
            return (name, b"; ".join(kept)) if kept else None
        case b"authorization":
            return None if KEY_PATTERN.search(value.decode("latin-1")) else header
        case b"referer":
            return name, without_token(value)
        case _:
            return header


def _is_our_cookie(part: bytes) -> bool:
    return part.partition(b"=")[0].strip().decode("latin-1") in COOKIES


def _way(request: h11.Request, origin: Origin) -> list[Header]:
    """What a proxy says of the way on which a request came."""
    host = text(request, b"host").encode("latin-1")
    before = [value for value in values(request, b"x-forwarded-for") if value] if origin.believed else []
    return [
        (b"X-Forwarded-For", b", ".join([*before, origin.address.encode()])),
        (b"X-Forwarded-Host", host),
        (b"X-Forwarded-Proto", origin.scheme.encode()),
    ]


def _cookies_mended(headers: Iterable[Header]) -> Iterator[Header]:
    for name, value in headers:
        if name.lower() != b"set-cookie":
            yield name, value
        elif not _is_our_cookie(value):
            attributes = [part for part in value.split(b";") if _attribute(part) != b"domain"]
            yield name, b";".join(attributes).strip()


def _attribute(part: bytes) -> bytes:
    return part.partition(b"=")[0].strip().lower()
