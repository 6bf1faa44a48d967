"""Answers about usage, billing and webhooks."""

from typing import Any

from pydantic import Field, RootModel

from boxkeep_server.model.webhooks import DeliveryState, DisabledReason
from boxkeep_server.web.shapes.base import Secret, Shape


class RanShape(Shape):
    """How long a sandbox ran."""

    id: str
    running_ms: int


class MonthShape(Shape):
    """How long sandboxes ran in a month."""

    month: str
    running_ms: int


class DayShape(Shape):
    """How long sandboxes ran on a day."""

    day: str
    running_ms: int


class UsageShape(Shape):
    """What sandboxes have run within a stretch of time."""

    since: int
    until: int
    running_ms: int
    hours: str
    sandboxes_created: int
    sandboxes_run: int
    sandboxes: list[RanShape]
    next_cursor: str | None
    months: list[MonthShape]
    days: list[DayShape]


class PlanShape(Shape):
    """The limits of a plan; null is without one."""

    name: str
    max_duration_ms: int | None
    concurrent: int | None
    monthly_ms: int | None
    stored_bytes: int | None
    paused: int | None
    features: list[str]


class PeriodShape(Shape):
    """A month of UTC."""

    month: str
    start: int
    end: int


class BilledMonthShape(MonthShape):
    """What was used in a month."""

    hours: str


class BillingShape(Shape):
    """A plan, and what was used of it."""

    plan: PlanShape
    period: PeriodShape
    used_ms: int
    used_hours: str
    remaining_ms: int | None
    remaining_hours: str | None
    limit_reached: bool
    paused_sandboxes: int
    stored_bytes: int
    months: list[BilledMonthShape]


class WebhookShape(Shape):
    """Where events are sent."""

    id: str
    url: str
    description: str | None
    event_types: list[str] = Field(description="`*` alone for all.")
    enabled: bool
    disabled_reason: DisabledReason | None = Field(
        description="`failing`: nothing reached it for three days; `gone`: it answered 410."
    )
    disabled_at: int | None
    failing_since: int | None = Field(description="When its failures began, if nothing reached it since.")
    created_at: int


class NewWebhookShape(WebhookShape):
    """A webhook with its secret, which is shown now and never again."""

    signing_secret: Secret = Field(description="`whsec_` and base64, as Standard Webhooks has it.")


class WebhookList(Shape):
    """All webhooks, newest first."""

    items: list[WebhookShape]
    next_cursor: None


class WebhookOrList(RootModel[WebhookShape | WebhookList]):
    """With `id` that webhook, without it all."""


class DeliveryShape(Shape):
    """One message owed to one webhook, and what came of it."""

    id: str
    webhook_id: str
    message_id: str = Field(description="The header `webhook-id`: the same for every repetition.")
    type: str
    sandbox_id: str | None
    sequence: int | None
    state: DeliveryState
    attempts: int
    created_at: int
    last_attempt_at: int | None
    next_attempt_at: int | None
    delivered_at: int | None
    response_status: int | None = Field(description="What the receiver answered last, if it did.")
    error: str | None
    payload: dict[str, Any]


class DeliveryList(Shape):
    """Deliveries, newest first."""

    items: list[DeliveryShape]
    next_cursor: str | None
