"""Usage and billing: what sandboxes have run, to the millisecond, and what the plan leaves."""

from typing import Annotated

from pydantic import Field
from starlette.responses import Response

from boxkeep_server.model.hours import month_of
from boxkeep_server.model.plans import Plan
from boxkeep_server.model.rates import CallKind
from boxkeep_server.model.scopes import Scope
from boxkeep_server.model.usage import hours
from boxkeep_server.web import shapes
from boxkeep_server.web.fields import Nothing, Query, QueryInt, Text
from boxkeep_server.web.operations import Answer, AnyOperation, Call, Operation
from boxkeep_server.web.views import json_response

_LATEST = 253_402_300_800_000  # the year 10000, the end of what a calendar names
Time = Annotated[QueryInt, Field(ge=0, lt=_LATEST)]


class Stretch(Query):
    """A stretch of time in epoch ms, this month of UTC by default, and a page of the sandboxes that ran in it."""

    since: Time | None = None
    until: Time | None = None
    limit: Annotated[QueryInt, Field(ge=0, le=1000)] | None = None
    cursor: Annotated[Text, Field(max_length=200)] | None = None


async def read_usage(call: Call, query: Stretch, _: Nothing) -> Response:
    """What ran in a stretch of time."""
    limit = 100 if query.limit is None else query.limit
    found = await call.parts.accounts.usage(call.caller, query.since, query.until, cursor=query.cursor, limit=limit)
    tally = found.tally
    return json_response(
        {
            "since": tally.since,
            "until": tally.until,
            "runningMs": tally.ms,
            "hours": hours(tally.ms),
            "sandboxesCreated": found.created,
            "sandboxesRun": len(tally.sandboxes),
            "sandboxes": [{"id": one, "runningMs": ms} for one, ms in found.sandboxes],
            "nextCursor": None if found.behind is None else found.behind.cursor,
            "months": [{"month": month, "runningMs": ms} for month, ms in sorted(tally.months.items())],
            "days": [{"day": day, "runningMs": ms} for day, ms in sorted(tally.days.items())],
        }
    )


async def read_billing(call: Call, _: Nothing, __: Nothing) -> Response:
    """The plan and what was used of it."""
    found = await call.parts.accounts.billing(call.caller)
    return json_response(
        {
            "plan": _plan(found.plan),
            "period": {"month": month_of(found.start), "start": found.start, "end": found.end},
            "usedMs": found.used_ms,
            "usedHours": hours(found.used_ms),
            "remainingMs": found.remaining_ms,
            "remainingHours": None if found.remaining_ms is None else hours(found.remaining_ms),
            "limitReached": found.remaining_ms == 0,
            "pausedSandboxes": found.paused,
            "storedBytes": found.stored_bytes,
            "months": [{"month": month, "runningMs": ms, "hours": hours(ms)} for month, ms in found.months.items()],
        }
    )


def _plan(plan: Plan) -> dict[str, object]:
    return {
        "name": plan.name,
        "maxDurationMs": plan.max_duration_ms,
        "concurrent": plan.concurrent,
        "monthlyMs": plan.month_ms,
        "storedBytes": plan.stored_bytes,
        "paused": plan.paused,
        "features": sorted(plan.features),
    }


OPERATIONS: tuple[AnyOperation, ...] = (
    Operation(
        method="GET",
        path="/v1/usage",
        name="readUsage",
        summary="Read what sandboxes have run",
        description="Running time between `since` and `until`, to the millisecond, from each `ready` until the sandbox "
        "paused, ended or failed; those that run are counted until now. The sums by sandbox, by month and by day of "
        "UTC are each the whole. The sandboxes come in pages of `limit`, those that ran longest first; 0 gives the "
        "sums alone. `cursor` goes on as `nextCursor` says, in the stretch of the first page, which has ended then "
        "whatever runs on. `sandboxesCreated` counts those that are still listed.",
        scope=Scope.USAGE,
        kind=CallKind.USAGE,
        handler=read_usage,
        query=Stretch,
        body=Nothing,
        answers={200: Answer("What ran.", shapes.UsageShape)},
        tag="usage",
    ),
    Operation(
        method="GET",
        path="/v1/billing",
        name="readBilling",
        summary="Read the plan and what was used of it",
        description="The plan's limits (null is without one), what was used of its hours in this month of UTC, what is "
        "left, and the months before, the latest 120. There are no prices: an operator bills by these figures.",
        scope=Scope.USAGE,
        kind=CallKind.USAGE,
        handler=read_billing,
        query=Nothing,
        body=Nothing,
        answers={200: Answer("The plan, and what was used.", shapes.BillingShape)},
        tag="usage",
    ),
)
