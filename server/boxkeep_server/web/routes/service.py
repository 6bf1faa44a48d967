"""The service itself: whether it lives, whether it is ready, its figures and its description."""

import orjson
from starlette.requests import Request
from starlette.responses import Response

from boxkeep_server.web import shapes
from boxkeep_server.web.operations import Answer, OpenOperation
from boxkeep_server.web.parts import Parts
from boxkeep_server.web.views import json_response


async def healthz(_: Request, __: Parts) -> Response:
    """It answers, so it lives."""
    return json_response({"ok": True})


async def readyz(_: Request, parts: Parts) -> Response:
    """Whether store and node answer too."""
    await parts.ready()
    return json_response({"ok": True})


async def metrics(_: Request, parts: Parts) -> Response:
    """Its figures."""
    text, content_type = parts.metrics.exposition()
    return Response(text, 200, {"Content-Type": content_type})


def described(document: dict[str, object]) -> OpenOperation:
    """The operation that shows the OpenAPI document."""
    body = orjson.dumps(document)

    async def openapi(_: Request, __: Parts) -> Response:
        return Response(body, 200, media_type="application/json")

    return OpenOperation(
        path="/openapi.json",
        name="openapi",
        summary="This document",
        handler=openapi,
        answers={200: Answer("The OpenAPI document.", shapes.AnyObject)},
    )


OPERATIONS = (
    OpenOperation(
        path="/healthz",
        name="healthz",
        summary="Whether the service lives",
        handler=healthz,
        answers={200: Answer("It does.", shapes.Ok)},
    ),
    OpenOperation(
        path="/readyz",
        name="readyz",
        summary="Whether the service can do its work",
        handler=readyz,
        answers={
            200: Answer("It can.", shapes.Ok),
            503: Answer("It cannot; the sentence says why.", shapes.ErrorShape),
        },
    ),
    OpenOperation(
        path="/metrics",
        name="metrics",
        summary="Figures for Prometheus",
        handler=metrics,
        answers={200: Answer("Prometheus's text format.", None, "text/plain")},
    ),
)
