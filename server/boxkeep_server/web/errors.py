"""The one table from errors to HTTP statuses, and the JSON body that every error has."""

import orjson
from starlette.responses import Response

from boxkeep_server.model.errors import (
    BoxkeepError,
    Conflict,
    Invalid,
    LimitReached,
    NoSpace,
    NotBuilt,
    NotFound,
    PermissionDenied,
    PlanForbids,
    RateLimited,
    SandboxFault,
    TimedOut,
    TooLarge,
    Unauthenticated,
    Unavailable,
)

STATUS: dict[type[BoxkeepError], int] = {
    Unauthenticated: 401,
    RateLimited: 429,
    TooLarge: 413,
    Invalid: 400,
    PermissionDenied: 403,
    NotFound: 404,
    PlanForbids: 403,
    Conflict: 409,
    LimitReached: 429,
    NoSpace: 507,
    NotBuilt: 501,
    SandboxFault: 502,
    Unavailable: 503,
    TimedOut: 504,
}
"""Every kind of error of the model; a subclass has the status of its nearest ancestor here."""


class MethodNotAllowed(BoxkeepError):
    """The path is known, the method is not; `allowed` are those it has."""

    def __init__(self, method: str, path: str, allowed: tuple[str, ...]) -> None:
        super().__init__(f"{method} is not allowed on {path}. Allowed: {', '.join(allowed)}")
        self.allowed = allowed


class RangeNotSatisfiable(BoxkeepError):
    """A byte range lies behind the end of a file of `size` bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(f"The range lies outside of the file's {size} bytes")
        self.size = size


WEB_STATUS: dict[type[BoxkeepError], int] = {MethodNotAllowed: 405, RangeNotSatisfiable: 416}


def status_of(error: BoxkeepError) -> int:
    """The HTTP status of an error, by its nearest ancestor in the tables."""
    for kind in type(error).__mro__:
        status = STATUS.get(kind) or WEB_STATUS.get(kind)
        if status is not None:
            return status
    return 500


def headers_of(error: BoxkeepError) -> dict[str, str]:
    """The headers that go with an error."""
    match error:
        case Unauthenticated():
            return {"WWW-Authenticate": "Bearer"}
        case RateLimited() | Unavailable():
            return {"Retry-After": str(error.retry_after_s)}
        case MethodNotAllowed():
            return {"Allow": ", ".join(error.allowed)}
        case RangeNotSatisfiable():
            return {"Content-Range": f"bytes */{error.size}"}
        case _:
            return {}


def body_of(error: BoxkeepError) -> bytes:
    """The JSON body of an error; text that is not Unicode (a path, a guest's message) is replaced, not fatal."""
    return orjson.dumps(printable(error.body()))


def printable(value: object) -> object:
    """The same JSON value with lone surrogates replaced by U+FFFD, so that it can be encoded."""
    match value:
        case str():
            return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace") if not _plain(value) else value
        case dict():
            return {str(printable(key)): printable(item) for key, item in value.items()}
        case list() | tuple():
            return [printable(item) for item in value]
        case _:
            return value


def _plain(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def response_of(error: BoxkeepError) -> Response:
    """The whole response of an error."""
    return Response(body_of(error), status_of(error), headers_of(error), "application/json")


def internal_error(request_id: str) -> Response:
    """What a client hears of a bug of ours: that it is one, and the id under which it is in the log."""
    body = orjson.dumps({"error": "Internal error", "requestId": request_id})
    return Response(body, 500, media_type="application/json")
