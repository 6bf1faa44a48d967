"""Reading JSON bodies: bounded in size and depth, and strict about everything that JSON leaves open."""

import json
from collections.abc import Sequence

import orjson
from starlette.requests import ClientDisconnect, Request

from boxkeep_server.model.errors import Invalid, TooLarge

DEPTH = 32
ORDINARY_BODY = 1 << 20


class _Duplicate(ValueError):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


async def read_body(request: Request, limit: int) -> bytes:
    """The body of a request, at most `limit` bytes.

    Raises:
        TooLarge: it is larger; what comes after the limit is not read.
        Invalid: the client went away in the middle.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise too_large(limit)
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise too_large(limit)
            chunks.append(chunk)
    except ClientDisconnect as gone:
        raise Invalid("The request's body is incomplete") from gone
    return b"".join(chunks)


def too_large(limit: int) -> TooLarge:
    """The error of a body over `limit` bytes."""
    return TooLarge(f"The request's body is larger than {limit} bytes", limitBytes=limit)


def check_content_type(request: Request) -> None:
    """Raise `Invalid` unless the body claims to be JSON, or claims nothing."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Invalid("Content-Encoding is not supported. Send the body as it is")
    claimed = request.headers.get("content-type")
    if claimed is None:
        return
    kind, _, parameters = claimed.partition(";")
    if kind.strip().lower() != "application/json":
        raise Invalid("Content-Type must be application/json")
    name, _, charset = parameters.strip().partition("=")
    if name.lower() == "charset" and charset.strip('" ').lower() not in ("utf-8", "utf8"):
        raise Invalid("Content-Type must be application/json in UTF-8")


def parse_object(body: bytes) -> dict[str, object]:
    """The JSON object that a body holds; an empty body is an empty object.

    Raises:
        Invalid: it is not UTF-8 JSON, not an object, nests deeper than 32, or names a field twice.
    """
    if not body.strip():
        return {}
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"The request's body is not JSON: {error.msg}") from error
    if not isinstance(value, dict):
        raise Invalid("The request's body must be a JSON object")
    _check_tree(value)
    _check_names(body)
    return value


def _check_tree(value: object) -> None:
    level: list[object] = [value]
    for _ in range(DEPTH):
        level = [child for item in level for child in _children(item)]
        if not level:
            return
    raise Invalid(f"The request's body nests deeper than {DEPTH}")


def _children(value: object) -> Sequence[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else ()


def _check_names(body: bytes) -> None:
    try:
        json.loads(body, object_pairs_hook=_without_duplicates, parse_int=_ignored, parse_float=_ignored)
    except _Duplicate as duplicate:
        raise Invalid(f"The request's body names '{duplicate.name[:100]}' twice") from duplicate


def _ignored(_: str) -> int:
    return 0


def _without_duplicates(pairs: list[tuple[str, object]]) -> None:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise _Duplicate(name)
        seen.add(name)
