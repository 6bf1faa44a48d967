"""Who waits for a sandbox is cut off when it is gone, and by nothing else."""

import asyncio
from collections.abc import Collection

import pytest

from boxkeep_server.control.liveness import Liveness, SandboxGone, States
from boxkeep_server.model.errors import Unavailable
from boxkeep_server.model.statuses import Status


async def test_a_store_that_is_away_cuts_nobody_off_and_ends_no_watch() -> None:
    asked = 0

    async def states(sandboxes: Collection[str]) -> States:
        nonlocal asked
        asked += 1
        if asked in (2, 3):
            raise Unavailable("The store is away")
        return dict.fromkeys(sandboxes, (Status.READY if asked == 1 else Status.ENDED, 1))

    liveness = Liveness(states, lambda: asyncio.sleep(0), poll_s=0.01)
    watch = asyncio.create_task(liveness.run())
    with pytest.raises(SandboxGone):
        async with asyncio.timeout(10), liveness.while_ready("a", 1):
            await asyncio.sleep(20)
    assert asked > 3
    assert not watch.done()
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
