"""Who looks at previews: reported by the gateway's process, known to the control plane, which keeps that process."""

import asyncio
import sys
from collections.abc import Callable, Collection
from contextlib import aclosing

from boxkeep_server.control.presence import Attendance, Presence
from boxkeep_server.gateway.keeper import Keeper

TELLS = """
import socket, sys
control = socket.socket(fileno=0)
control.sendall(b'["one"]\\n["one", "two"]\\n')
control.recv(1) if sys.argv[1] == "stays" else None
"""


class Recording(Attendance):
    """Keeps what was reported."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        super().__init__(now_ms)
        self.reports: list[list[str]] = []

    def report(self, sandboxes: Collection[str]) -> None:
        self.reports.append(sorted(sandboxes))
        super().report(sandboxes)


async def test_a_report_names_where_somebody_is_or_has_just_been() -> None:
    presence = Presence()
    async with aclosing(presence.reports()) as reports:
        assert not await anext(reports)
        with presence.at("a"), presence.at("a"):
            with presence.at("b"):
                pass
            assert set(await anext(reports)) == {"a", "b"}
            assert set(await anext(reports)) == {"a"}
        assert not await anext(reports)


def test_who_was_seen_and_when_is_remembered() -> None:
    now = 1000
    attendance = Attendance(lambda: now)
    attendance.report(["a", "b"])
    now = 2000
    attendance.report(["a"])
    assert (attendance.has("a"), attendance.has("b"), attendance.has("c")) == (True, False, False)
    assert [attendance.seen_at(name) for name in "abc"] == [2000, 1000, 0]


async def test_a_process_that_ends_is_started_again_and_nobody_is_there_meanwhile() -> None:
    attendance = Recording(lambda: 1)
    keeper = asyncio.create_task(Keeper(attendance, (sys.executable, "-c", TELLS, "ends"), 0.01).run())
    async with asyncio.timeout(20):
        while len(attendance.reports) < 6:
            await asyncio.sleep(0.01)
    keeper.cancel()
    await asyncio.gather(keeper, return_exceptions=True)
    assert attendance.reports[:6] == [["one"], ["one", "two"], []] * 2


async def test_a_process_ends_with_its_keeper() -> None:
    attendance = Attendance(lambda: 1)
    keeper = asyncio.create_task(Keeper(attendance, (sys.executable, "-c", TELLS, "stays")).run())
    async with asyncio.timeout(20):
        while not attendance.has("two"):
            await asyncio.sleep(0.01)
    began = asyncio.get_running_loop().time()
    keeper.cancel()
    await asyncio.gather(keeper, return_exceptions=True)
    assert asyncio.get_running_loop().time() - began < 4
    assert not attendance.has("two")
