"""Webhooks: where an organisation wants its events sent, what is owed to it, and when to try again; pure."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import orjson

from boxkeep_server.model.errors import NotFound
from boxkeep_server.model.events import PUBLIC, EventType

MOST_WEBHOOKS: Final = 20
"""How many an organisation may have."""

TEST: Final = "webhook.test"
ALL: Final = "*"

RETRIED_FOR_MS: Final = 24 * 3_600_000
"""How long a delivery is tried, from its event on or from when it was asked for again."""

FAILING_FOR_MS: Final = 3 * RETRIED_FOR_MS
"""A webhook that nothing has reached for so long is disabled at its next failure."""

OLD_SECRET_FOR_MS: Final = RETRIED_FOR_MS
"""How long both secrets sign after a rotation: until all that was signed by the old one alone has been given up."""

FIRST_DELAY_MS: Final = 5_000
GROWTH: Final = 4
LONGEST_DELAY_MS: Final = 3 * 3_600_000
GONE: Final = 410


class DisabledReason(StrEnum):
    """Why a webhook is disabled."""

    USER_REQUEST = "user_request"
    FAILING = "failing"
    GONE = "gone"


class DeliveryState(StrEnum):
    """Where a delivery stands."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where events go. `event_types` None means all. `failing_since` is when its failures began, if none succeeded
    since; times are epoch ms."""

    id: str
    organisation: str
    url: str
    description: str | None
    event_types: tuple[EventType, ...] | None
    enabled: bool
    disabled_reason: DisabledReason | None
    disabled_at: int | None
    failing_since: int | None
    created_at: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message owed to one webhook. `due_at` is when it is tried next, None once that is settled; `tries` counts
    failures since it was last asked for, `attempts` all that were made."""

    id: str
    webhook: str
    message: str
    type: str
    sandbox: str | None
    sequence: int | None
    body: str
    state: DeliveryState
    attempts: int
    tries: int
    created_at: int
    due_at: int | None
    give_up_at: int
    attempted_at: int | None
    delivered_at: int | None
    status: int | None
    error: str | None


class WebhookNotFound(NotFound):
    """No such webhook for this organisation."""

    def __init__(self) -> None:
        super().__init__("Webhook not found")


class DeliveryNotFound(NotFound):
    """No such delivery for this organisation."""

    def __init__(self) -> None:
        super().__init__("Delivery not found")


def event_message(sandbox: str, sequence: int) -> str:
    """The id of an event as a message: the same for every webhook and at every repetition."""
    return f"evt_{sandbox}_{sequence}"


def trial_message(nonce: str) -> str:
    """The id of a message that tries a webhook out."""
    return f"evt_test_{nonce}"


def delivery_id(webhook: str, message: str) -> str:
    """The id of what is owed to a webhook of a message: always the same, so that it can be owed only once."""
    return hashlib.sha256(f"{webhook}:{message}".encode()).hexdigest()[:32]


def event_body(sandbox: str, sequence: int, event: EventType, at: int, data: Mapping[str, object]) -> str:
    """What is sent of an event."""
    shown = {**data, "id": sandbox}
    return _body(event_message(sandbox, sequence), event.value, at, sequence, shown)


def trial_body(message: str, webhook: str, at: int) -> str:
    """What is sent to try a webhook out."""
    return _body(message, TEST, at, None, {"webhookId": webhook})


def _body(message: str, kind: str, at: int, sequence: int | None, data: Mapping[str, object]) -> str:
    sent: dict[str, Any] = {"id": message, "type": kind, "timestamp": at, "sequence": sequence, "data": data}
    return orjson.dumps(sent).decode()


def wanted_types(given: list[str] | None) -> tuple[EventType, ...] | None:
    """The event types that a list of names means; None, which is all, where it is absent or has `*` in it.

    Raises:
        ValueError: one of them is no type of event that is sent; the text names it.
    """
    names = {event.value for event in PUBLIC}
    unknown = next((name for name in given or () if name != ALL and name not in names), None)
    if unknown is not None:
        raise ValueError(unknown)
    if given is None or ALL in given:
        return None
    return tuple(event for event in EventType if event in PUBLIC and event.value in given)


def next_try(tries: int, now: int, give_up_at: int, jitter: float) -> int | None:
    """When to try again after `tries` failures, epoch ms; None to give up.

    5 s, 20 s, 80 s and so on, three hours at most; `jitter`, from 0 to 1, moves it by up to a quarter either way.
    """
    delay_ms = min(LONGEST_DELAY_MS, FIRST_DELAY_MS * GROWTH ** min(tries - 1, 16))
    due_at = now + round(delay_ms * (0.75 + jitter / 2))
    return due_at if due_at < give_up_at else None


def disabled_by(webhook: Webhook, status: int | None, now: int) -> DisabledReason | None:
    """Why a failure disables a webhook, None where it does not. `status` is what the receiver answered."""
    if status == GONE:
        return DisabledReason.GONE
    if webhook.failing_since is not None and webhook.failing_since <= now - FAILING_FOR_MS:
        return DisabledReason.FAILING
    return None
