"""Plans: what an organisation may have at once, for how long, and which features."""

from dataclasses import dataclass

from boxkeep_server.model.errors import Invalid

HOUR_MS = 3_600_000
GIB = 1 << 30

PAIRED_BROWSER = "Paired browser"
RECORDING = "Recording"


@dataclass(frozen=True, slots=True)
class Plan:
    """Limits of an organisation. None means without limit; durations and hours in ms, storage in bytes."""

    name: str
    max_duration_ms: int | None
    concurrent: int | None
    month_ms: int | None
    stored_bytes: int | None
    paused: int | None
    features: frozenset[str]


ALL_FEATURES = frozenset({PAIRED_BROWSER, RECORDING})

BUILT_IN: dict[str, Plan] = {
    plan.name: plan
    for plan in (
        Plan("free", 300_000, 1, 5 * HOUR_MS, 5 * GIB, 1, frozenset()),
        Plan("builder", 1_800_000, 3, 50 * HOUR_MS, 25 * GIB, 10, frozenset()),
        Plan("pro", 3_600_000, 10, 500 * HOUR_MS, 100 * GIB, 50, ALL_FEATURES),
        Plan("scale", 7_200_000, 50, 5_000 * HOUR_MS, 500 * GIB, 500, ALL_FEATURES),
        Plan("unlimited", None, None, None, None, None, ALL_FEATURES),
    )
}
"""Durations, concurrency and hours of the first four are the published ones; storage is ours."""

DEFAULT_DURATION_MS = 24 * HOUR_MS
"""How long a sandbox runs on a plan without a maximum when its creator names none."""

LONGEST_DURATION_MS = 10 * 365 * 24 * HOUR_MS
"""The most that a creator may name on any plan; times stay within what JSON's numbers hold."""

LOWEST_WITH: dict[str, str] = {PAIRED_BROWSER: "pro", RECORDING: "pro"}
"""The plan to name when a feature is refused."""


def checked_duration(wished_ms: int | None, plan: Plan) -> int:
    """How long a sandbox may run: as wished, by default the plan's maximum.

    Raises:
        Invalid: not positive, more than ten years, or over the plan's.
    """
    if wished_ms is None:
        return plan.max_duration_ms or DEFAULT_DURATION_MS
    if not 0 < wished_ms <= LONGEST_DURATION_MS:
        raise Invalid("Invalid maxDurationMs")
    if plan.max_duration_ms is not None and wished_ms > plan.max_duration_ms:
        raise Invalid(
            "Invalid maxDurationMs",
            code="PLAN_LIMIT_EXCEEDED",
            limitMs=plan.max_duration_ms,
            currentPlan=plan.name,
            detail=f"The {plan.name} plan allows at most {plan.max_duration_ms} ms",
        )
    return wished_ms
