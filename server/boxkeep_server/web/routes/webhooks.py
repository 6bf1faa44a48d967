"""Webhooks: where events are sent, and what became of them."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from boxkeep_server.control.webhooks import NewWebhook
from boxkeep_server.model.events import PUBLIC, EventType
from boxkeep_server.model.rates import CallKind
from boxkeep_server.model.scopes import Scope
from boxkeep_server.model.webhooks import ALL, MOST_WEBHOOKS, wanted_types
from boxkeep_server.outbound.target import LONGEST_URL, target_of
from boxkeep_server.web import shapes, views
from boxkeep_server.web.fields import Fields, Nothing, Query, QueryInt, Text
from boxkeep_server.web.operations import Answer, AnyOperation, Call, Operation
from boxkeep_server.web.views import json_response

SENT = tuple(event.value for event in EventType if event in PUBLIC)


def _wrong(text: str) -> PydanticCustomError:
    return PydanticCustomError("said", "{said}", {"said": text})


def _url(url: str) -> str:
    try:
        target_of(url)
    except ValueError as error:
        raise _wrong(str(error)) from error
    return url


def _types(names: list[str]) -> list[str]:
    try:
        wanted_types(names)
    except ValueError as error:
        raise _wrong(f"there is no '{error}'. Must be among: {', '.join(SENT)}, or {ALL} for all") from error
    return names


Id = Annotated[Text, Field(min_length=1, max_length=200)]
Url = Annotated[Text, Field(max_length=LONGEST_URL, pattern="^https?://"), AfterValidator(_url)]
Description = Annotated[Text, Field(max_length=1000)]
Types = Annotated[
    list[Annotated[Text, Field(max_length=100)]],
    Field(min_length=1, max_length=100, description=f"Any of {', '.join(SENT)}; `*` or none for all."),
    AfterValidator(_types),
]


class CreateWebhook(Fields):
    """Where events are to go."""

    url: Url
    event_types: Types | None = None
    description: Description | None = None


class ChangeWebhook(Fields):
    """A change of a webhook."""

    id: Id
    url: Url | None = None
    event_types: Types | None = None
    description: Description | None = None
    enabled: bool | None = None


class ReadWebhooks(Query):
    """One webhook by `id`, or all."""

    id: Id | None = None


class OfWebhook(Query):
    """A webhook."""

    id: Id


class NamedWebhook(Fields):
    """A webhook."""

    id: Id


class DeliveriesQuery(OfWebhook):
    """A page of a webhook's deliveries."""

    limit: Annotated[QueryInt, Field(ge=1, le=200)] | None = None
    cursor: Annotated[Text, Field(max_length=200)] | None = None


class Redeliver(Fields):
    """A delivery."""

    delivery_id: Id


def _shown_once(made: NewWebhook) -> Response:
    return json_response({**views.webhook(made.webhook), "signingSecret": made.secret})


async def create(call: Call, _: Nothing, body: CreateWebhook) -> Response:
    """Make a webhook."""
    types = wanted_types(body.event_types)
    made = await call.parts.webhooks.create(call.caller, body.url, types, body.description, call.effect)
    return _shown_once(made)


async def read(call: Call, query: ReadWebhooks, _: Nothing) -> Response:
    """One webhook, or all."""
    if query.id is not None:
        return json_response(views.webhook(await call.parts.webhooks.get(call.caller, query.id)))
    items = [views.webhook(row) for row in await call.parts.webhooks.list(call.caller)]
    return json_response({"items": items, "nextCursor": None})


async def change(call: Call, _: Nothing, body: ChangeWebhook) -> Response:
    """Change a webhook."""
    given: dict[str, Any] = {name: getattr(body, name) for name in body.model_fields_set if name != "id"}
    given = {name: value for name, value in given.items() if value is not None or name not in ("url", "enabled")}
    if "event_types" in given:
        given["event_types"] = wanted_types(given["event_types"])
    return json_response(views.webhook(await call.parts.webhooks.change(call.caller, body.id, **given)))


async def delete(call: Call, query: OfWebhook, _: Nothing) -> Response:
    """Delete a webhook."""
    await call.parts.webhooks.delete(call.caller, query.id)
    return json_response({"ok": True})


async def rotate(call: Call, _: Nothing, body: NamedWebhook) -> Response:
    """Give a webhook a new secret."""
    return _shown_once(await call.parts.webhooks.rotate(call.caller, body.id))


async def test(call: Call, _: Nothing, body: NamedWebhook) -> Response:
    """Try a webhook out."""
    return json_response(views.delivery(await call.parts.webhooks.test(call.caller, body.id, call.effect)))


async def deliveries(call: Call, query: DeliveriesQuery, _: Nothing) -> Response:
    """What was sent."""
    page = await call.parts.webhooks.deliveries(call.caller, query.id, query.cursor, query.limit or 100)
    return json_response({"items": [views.delivery(row) for row in page.items], "nextCursor": page.next_cursor})


async def redeliver(call: Call, _: Nothing, body: Redeliver) -> Response:
    """Send again."""
    return json_response(views.delivery(await call.parts.webhooks.redeliver(call.caller, body.delivery_id)))


PATH = "/v1/webhooks"


def _operation(
    method: str,
    path: str,
    name: str,
    summary: str,
    handler: Any,
    answer: tuple[str, type[BaseModel]],
    *,
    description: str = "",
    query: type[Fields] = Nothing,
    body: type[Fields] = Nothing,
    faults: frozenset[int] = frozenset({404}),
) -> AnyOperation:
    return Operation(
        method=method,
        path=PATH + path,
        name=name,
        summary=summary,
        description=description,
        scope=Scope.WEBHOOKS,
        kind=CallKind.USAGE,
        handler=handler,
        query=query,
        body=body,
        answers={200: Answer(*answer)},
        faults=faults,
        tag="webhooks",
    )


OPERATIONS: tuple[AnyOperation, ...] = (
    _operation(
        "POST",
        "",
        "createWebhook",
        "Make a webhook",
        create,
        ("The webhook, with its secret.", shapes.NewWebhookShape),
        description="Every event that happens from now on is sent to `url` as a POST that is signed as Standard "
        "Webhooks has it: at least once, each with a `sequence` per sandbox, in order while all goes well, tried again "
        "for a day. Only a 2xx acknowledges; redirects are not followed; 410 disables the webhook. Only public "
        f"addresses are reached, but for networks that the operator opened. {MOST_WEBHOOKS} for an organisation.",
        body=CreateWebhook,
        faults=frozenset(),
    ),
    _operation(
        "GET",
        "",
        "readWebhooks",
        "Read one webhook, or list all",
        read,
        ("The webhook, or all.", shapes.WebhookOrList),
        query=ReadWebhooks,
    ),
    _operation(
        "PATCH",
        "",
        "changeWebhook",
        "Change a webhook",
        change,
        ("The webhook.", shapes.WebhookShape),
        description="`eventTypes: null` is all. What happens while it is disabled is not sent later.",
        body=ChangeWebhook,
    ),
    _operation(
        "DELETE",
        "",
        "deleteWebhook",
        "Delete a webhook and what is known of its deliveries",
        delete,
        ("It is gone.", shapes.Ok),
        query=OfWebhook,
    ),
    _operation(
        "POST",
        "/rotate",
        "rotateWebhook",
        "Give a webhook a new secret",
        rotate,
        ("The webhook, with its new secret.", shapes.NewWebhookShape),
        description="For a day the old secret signs beside the new one.",
        body=NamedWebhook,
    ),
    _operation(
        "POST",
        "/test",
        "testWebhook",
        "Send a webhook a message that says nothing",
        test,
        ("The delivery; read it again to see what came of it.", shapes.DeliveryShape),
        body=NamedWebhook,
        faults=frozenset({404, 409}),
    ),
    _operation(
        "GET",
        "/deliveries",
        "listDeliveries",
        "List what was sent to a webhook, newest first",
        deliveries,
        ("A page.", shapes.DeliveryList),
        query=DeliveriesQuery,
    ),
    _operation(
        "POST",
        "/redeliver",
        "redeliver",
        "Send a message again",
        redeliver,
        ("The delivery.", shapes.DeliveryShape),
        body=Redeliver,
        faults=frozenset({404, 409}),
    ),
)
