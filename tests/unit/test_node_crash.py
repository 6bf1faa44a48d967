"""The node is killed before each of its steps and started again; nothing is lost, doubled or leaked."""

import asyncio
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from boxkeep_server.model.machines import Key
from boxkeep_server.model.node_api import ClaimState, ClaimWish, Snapshot
from boxkeep_server.node import refusals
from boxkeep_server.node.pool import Kind
from boxkeep_server.node.service import Service
from tests.node_hosts import Host, Killed, Mine
from tests.node_layers import Layer
from tests.node_worlds import service_over, wish


@pytest.fixture
def directory() -> Iterator[Path]:
    """In memory: thousands of lives flush their files, and no host dies here."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


WARM = {Kind("base", "runsc"): 1}


def resumed(wanted: ClaimWish) -> ClaimWish:
    return wanted.model_copy(update={"epoch": wanted.epoch + 1, "resume": wanted.epoch})


class Story:
    """What a control plane does with a node: it makes warm machines, claims, is told, releases."""

    def __init__(self) -> None:
        self.kept, self.cold, self.short, self.late = (
            wish(isolation="runsc"),
            wish(isolation="runc"),
            wish(not_after=1_000_010),
            wish(),
        )
        self.paused, self.files = wish(isolation="runsc"), wish(isolation="runc")
        self.answered: dict[Key, str] = {}
        self.released: set[Key] = set()
        self.snapshots: dict[Key, Snapshot] = {}
        self.discarded: set[Key] = set()
        self.checkpoint, self.dropped = "c" * 32, "d" * 32
        self.fork = wish(isolation="runsc", checkpoint=self.checkpoint, fork=True)
        self.taken: dict[str, Snapshot] = {}

    async def play(self, service: Service, host: Host) -> None:
        await service.adopt()
        await service.refill_once()
        await self._claim(service, self.kept)
        await service.refill_once()
        await self._claim(service, self.late)
        await self._checkpoint(service, self.kept, self.checkpoint, memory=True)
        await self._checkpoint(service, self.kept, self.dropped, memory=False)
        await self._claim(service, self.fork)
        await service.forget(self.dropped)
        for wanted in (self.paused, self.files):
            await self._claim(service, wanted)
            await self._pause(service, wanted)
        await self._claim(service, resumed(self.paused))
        await self._discard(service, self.paused)
        await asyncio.gather(self._claim(service, self.cold), self._claim(service, self.short))
        await service.deaths.beat_once()
        host.time = max(host.time, 1_000_020)
        await service.deaths.expire_once()
        await self._release(service, self.late)
        await service.pool.tidy_once()
        await service.sweep_once()

    async def _claim(self, service: Service, wanted: ClaimWish) -> None:
        try:
            claim = await service.claims.claim(wanted)
        except (refusals.EpochReleased, refusals.Malformed):
            return
        before = self.answered.setdefault(Key.of(wanted), claim.machine)
        assert before == claim.machine, "a claim that was answered is now another machine"

    async def _pause(self, service: Service, wanted: ClaimWish) -> None:
        key = Key.of(wanted)
        if key in self.discarded:
            return
        snapshot = await service.pauses.pause(key)
        assert self.snapshots.setdefault(key, snapshot) == snapshot, "a snapshot that was answered is now another"
        self.released.add(key)

    async def _checkpoint(self, service: Service, wanted: ClaimWish, checkpoint: str, *, memory: bool) -> None:
        snapshot = await service.checkpoints.take(Key.of(wanted), checkpoint, memory=memory)
        if checkpoint == self.checkpoint:
            assert self.taken.setdefault(checkpoint, snapshot) == snapshot, "a checkpoint that was answered is another"

    async def _discard(self, service: Service, wanted: ClaimWish) -> None:
        self.discarded.add(Key.of(wanted))
        await service.discard(wanted.sandbox, wanted.epoch)

    async def _release(self, service: Service, wanted: ClaimWish) -> None:
        await service.claims.release(Key.of(wanted))
        self.released.add(Key.of(wanted))


async def play(host: Host, story: Story, mine: Mine) -> tuple[Service, bool]:
    """One life of a node process, and whether it came to the end of the story. Its threads end with it."""
    service = service_over(Layer(host, mine), warm=WARM, step=mine)
    loop, threads = asyncio.get_running_loop(), ThreadPoolExecutor()
    loop.set_default_executor(threads)
    try:
        await story.play(service, host)
    except (Killed, BaseExceptionGroup):
        return service, False
    finally:
        await service.crew.dismiss()
        threads.shutdown()
        loop.set_default_executor(ThreadPoolExecutor())
    return service, True


def check_nothing_is_lost_or_doubled(host: Host, story: Story, service: Service) -> None:
    claims = {Key(claim.sandbox, claim.epoch, claim.role): claim for claim in service.claims.list()}
    for key, machine in story.answered.items():
        if key not in story.released:
            assert claims[key].machine == machine
    assert len({claim.machine for claim in claims.values()}) == len(claims)
    assert set(host.bodies) <= service.owned(), "a machine belongs to nobody"
    files = {path.stem for path in (host.lib / "claims").glob("*.json")}
    assert files == {claim.machine for claim in claims.values()}
    marks = {path.stem for path in (host.lib / "pool").glob("*.json")}
    assert marks == service.pool.owned()
    assert not files & marks
    assert not list(host.lib.glob("*/.*.new"))
    pauses = {key for name in host.kept if (key := Key.named(name)) is not None}
    assert pauses == set(story.snapshots) - story.discarded
    assert {name for name in host.kept if Key.named(name) is None} == {story.checkpoint}
    assert story.taken[story.checkpoint].keeps == "memory"
    assert not host.standing, "a machine is left standing"
    assert not host.closed & host.living(), "a machine takes no calls"
    assert all(kept.whole for kept in host.kept.values()), "half a snapshot is left"
    assert story.snapshots[Key.of(story.paused)].keeps == "memory"
    assert Key.of(resumed(story.paused)) in claims
    for claim in claims.values():
        assert (claim.machine in host.living()) == (claim.state is not ClaimState.DEAD)


async def steps_of_the_whole_story(lib: Path) -> list[str]:
    mine = Mine()
    _, finished = await play(Host(lib), Story(), mine)
    assert finished
    return mine.steps


async def test_a_node_killed_at_any_step_goes_on_where_it_was(directory: Path) -> None:
    steps = await steps_of_the_whole_story(directory / "whole")
    assert len(steps) > 40
    for at in range(len(steps)):
        host, story = Host(directory / str(at)), Story()
        host.lib.mkdir()
        _, finished = await play(host, story, Mine(at))
        assert not finished
        service, finished = await play(host, story, Mine())
        assert finished, f"killed before step {at}, {steps[at]}"
        check_nothing_is_lost_or_doubled(host, story, service)
        assert Key.of(story.late) in story.released


@pytest.mark.parametrize("first", [3, 9, 17, 25, 33])
async def test_a_node_killed_again_while_it_adopts_goes_on_where_it_was(directory: Path, first: int) -> None:
    for second in range(12):
        host, story = Host(directory / f"{first}-{second}"), Story()
        host.lib.mkdir()
        await play(host, story, Mine(first))
        await play(host, story, Mine(second))
        service, finished = await play(host, story, Mine())
        assert finished
        check_nothing_is_lost_or_doubled(host, story, service)


async def test_a_host_that_restarts_at_any_step_leaves_the_dead_and_nothing_warm(directory: Path) -> None:
    steps = await steps_of_the_whole_story(directory / "whole")
    for at in range(0, len(steps), 3):
        host, story = Host(directory / str(at)), Story()
        host.lib.mkdir()
        await play(host, story, Mine(at))
        host.reboot()
        service = service_over(Layer(host), warm={})
        await service.adopt()
        await service.pauses.settled(5)
        assert host.living() == set()
        assert set(host.bodies) <= service.owned()
        claims = {claim.machine: claim for claim in service.claims.list()}
        for key, machine in story.answered.items():
            if key.name in host.kept:
                assert machine not in claims
                assert host.kept[key.name].whole, "a pause that the host's restart cut off keeps the files"
            elif key not in story.released and Key.of(story.late) != key:
                assert claims[machine].state is ClaimState.DEAD
                assert claims[machine].reason in ("host_restarted", "expired")
        assert service.pool.owned() == set()
