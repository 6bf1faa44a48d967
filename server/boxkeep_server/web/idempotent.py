"""Idempotency-Key: the same request again gets the answer of the first."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from boxkeep_server.control.idempotency import Answer as Kept
from boxkeep_server.model.errors import Invalid
from boxkeep_server.web.operations import AnyOperation, Call

LONGEST_KEY = 255
REPLAYED = {"Idempotent-Replayed": "true"}


def key_of(request: Request) -> str | None:
    """The Idempotency-Key of a request.

    Raises:
        Invalid: it is empty, too long or not plain text.
    """
    key = request.headers.get("idempotency-key")
    if key is not None and not (0 < len(key) <= LONGEST_KEY and key.isascii() and key.isprintable()):
        raise Invalid(f"Invalid Idempotency-Key: must be 1 to {LONGEST_KEY} printable ASCII characters")
    return key


async def answer_once(
    call: Call, operation: AnyOperation, key: str, fingerprint: str, answer: Callable[[str | None], Awaitable[Response]]
) -> Response:
    """What the request gets: the kept answer of its key, or a new one, made with the id that the key has drawn.

    Refusals, streams and answers that carry a token are not kept: asked again, the work is done again with that same
    id, so that a command is not run twice but its stream is sent again.
    """
    store = call.parts.idempotency
    begun = await store.begin(call.caller.organisation, operation.path, key, fingerprint)
    if isinstance(begun, Kept):
        return Response(begun.body, begun.status, REPLAYED, "application/json")
    done = False
    try:
        response = await answer(begun.effect)
        if response.media_type == "application/json":
            kept = Kept(response.status_code, bytes(response.body))
            await store.complete(begun, kept, secret=operation.secret)
            done = True
    finally:
        if not done:
            await store.give_up(begun)
    return response
