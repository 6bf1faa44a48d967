"""Idempotency-Key: the same request again gets the answer of the first."""

from collections.abc import Awaitable, Callable

from starlette.responses import Response

from boxkeep_server.model.errors import Invalid
from boxkeep_server.web.operations import Call
from boxkeep_server.web.parts import Stored

LONGEST_KEY = 255
REPLAYED = {"Idempotent-Replayed": "true"}


def key_of(call: Call) -> str | None:
    """The Idempotency-Key of a request.

    Raises:
        Invalid: it is empty, too long or not plain text.
    """
    key = call.request.headers.get("idempotency-key")
    if key is not None and not (0 < len(key) <= LONGEST_KEY and key.isascii() and key.isprintable()):
        raise Invalid(f"Invalid Idempotency-Key: must be 1 to {LONGEST_KEY} printable ASCII characters")
    return key


async def answer_once(call: Call, path: str, fingerprint: str, answer: Callable[[], Awaitable[Response]]) -> Response:
    """What the request gets: the kept answer of its key, or a new one. Refusals and streams are not kept."""
    key = key_of(call)
    if key is None:
        return await answer()
    store, organisation = call.parts.idempotency, call.caller.organisation
    stored = await store.begin(organisation, path, key, fingerprint)
    if stored is not None:
        return Response(stored.body, stored.status, REPLAYED, "application/json")
    kept = False
    try:
        response = await answer()
        if response.media_type == "application/json":
            await store.finish(organisation, path, key, Stored(response.status_code, bytes(response.body)))
            kept = True
    finally:
        if not kept:
            await store.abandon(organisation, path, key)
    return response
