"""The whole life of sandboxes against a model of it: wishes in any order, kills under them, and after each of them all
that a client can see agrees with the model.

In CI few programs of wishes run, always the same; with `SOAK` many that are drawn anew, and one that fails is
shortened, for five minutes at most. `TEST_MODEL_EXAMPLES` and `TEST_MODEL_STEPS` decide how many and how long.
"""

import asyncio
import itertools
import os

import hypothesis
import pytest
from hypothesis.stateful import run_state_machine_as_test

from boxkeep_server.model.plans import Plan
from boxkeep_server.store import organisations
from boxkeep_server.store.database import Database
from tests.chaos.lifecycle import CONCURRENT, MAX_DURATION_MS, PAUSED, STORED_BYTES
from tests.chaos.wishes import Wishes
from tests.services import Service

SOAK = bool(os.environ.get("SOAK"))
EXAMPLES = int(os.environ.get("TEST_MODEL_EXAMPLES", "60" if SOAK else "3"))
STEPS = int(os.environ.get("TEST_MODEL_STEPS", "50" if SOAK else "25"))
ALWAYS = [hypothesis.Phase.generate]
SMALL = Plan("small", MAX_DURATION_MS, CONCURRENT, None, STORED_BYTES, PAUSED, frozenset())


def put_plan(service: Service, plan: Plan) -> None:
    """Give a running service a plan of the operator's own."""

    async def put() -> None:
        database = await Database.open(f"sqlite+aiosqlite:///{service.lib}/control/boxkeep.sqlite3")
        async with database.writing() as connection:
            await organisations.put_plan(connection, plan)
        await database.close()

    asyncio.run(put())


@pytest.mark.timeout(4 * 3600 if SOAK else 600)
def test_whatever_is_wished_and_killed_in_whatever_order_the_model_holds(service: Service) -> None:
    put_plan(service, SMALL)
    stranger = service.api("stranger-to-the-model")
    numbers = itertools.count(1)

    def begin() -> Wishes:
        return Wishes(service, service.api(f"lifecycle-{next(numbers)}", SMALL.name), stranger)

    run_state_machine_as_test(
        begin,
        settings=hypothesis.settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            phases=[*ALWAYS, hypothesis.Phase.shrink] if SOAK else ALWAYS,
            derandomize=not SOAK,
            database=None,
            report_multiple_bugs=False,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )
    service.wait_clean(60)
