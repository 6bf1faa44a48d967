"""Deaths: machines that end by themselves are noticed, and those whose time is up or that must go are ended."""

import logging
from collections.abc import Callable

from boxkeep_server.model.node_api import ClaimState, DeathReason
from boxkeep_server.node import durable
from boxkeep_server.node.adoption import cause_of_exit
from boxkeep_server.node.crew import Crew
from boxkeep_server.node.heartbeat import Beat, Heartbeat
from boxkeep_server.node.layer import Clock, Maker, Observer, Use
from boxkeep_server.node.ledger import Held, Ledger
from boxkeep_server.node.room import largest

_log = logging.getLogger(__name__)


class Deaths:
    """Watches over the bound machines of one node. `count` is told the reason of each death."""

    def __init__(
        self,
        maker: Maker,
        observer: Observer,
        ledger: Ledger,
        heartbeat: Heartbeat,
        crew: Crew,
        *,
        boot_id: str,
        now: Clock,
        uptime: Clock,
        count: Callable[[DeathReason], None],
    ) -> None:
        self._maker = maker
        self._observer = observer
        self._ledger = ledger
        self._heartbeat = heartbeat
        self._crew = crew
        self._boot_id = boot_id
        self._now = now
        self._uptime = uptime
        self._count = count

    def watch(self, held: Held) -> None:
        """Notice when a running machine ends."""
        self._crew.watch(self._until_exit(held))

    async def expire_once(self) -> int:
        """End every machine whose time is up; how many."""
        now = self._uptime()
        over = [held for held in self._ledger if self._mortal(held) and held.binding.ends_at <= now]
        for held in over:
            await self._end(held, DeathReason.EXPIRED)
        return len(over)

    async def end_largest_once(self) -> int:
        """End the running machine that holds the most memory, for the sake of the host; 0 where there is none."""
        running = {held.binding.machine: held for held in self._ledger if self._mortal(held)}
        uses = {machine: self._observer.use(machine) for machine in running}
        chosen = largest({machine: use.memory_bytes for machine, use in uses.items() if use is not None})
        if chosen is None:
            return 0
        await self._end(running[chosen], DeathReason.HOST_MEMORY)
        return 1

    async def beat_once(self) -> int:
        """Note on disk that the living are alive; how many there are."""
        now, kills = self._now(), {}
        for held in self._ledger:
            machine = held.machine
            if held.binding.state is ClaimState.RUNNING and machine is not None and self._observer.alive(machine):
                self._ledger.seen(held, now, self._observer.use(machine.id))
                kills[machine.id] = held.binding.oom_kills
        self._beat(Beat(boot_id=self._boot_id, at=now, oom_kills=kills))
        return len(kills)

    def _beat(self, beat: Beat) -> None:
        """Without room for it the last one stays: a host that dies then had them alive a little longer than we know."""
        try:
            self._heartbeat.write(beat)
        except OSError as error:
            if error.errno not in durable.FULL:
                raise
            _log.warning("no heartbeat is written down: %s", error)

    def _mortal(self, held: Held) -> bool:
        # One that starts is bounded by its claim, unless it was found half done and nobody asks for it again.
        found = held.binding.state is ClaimState.STARTING and held.machine is not None
        return not held.releasing and (held.binding.state is ClaimState.RUNNING or found)

    async def _end(self, held: Held, reason: DeathReason) -> None:
        """The reason first, so that no process that comes after takes the death for another."""
        self._note(held, reason, self._observer.use(held.binding.machine))
        await self._maker.end(held.binding.machine)

    async def _until_exit(self, held: Held) -> None:
        machine = held.machine
        assert machine is not None
        await self._observer.exited(machine)
        if held.binding.state is not ClaimState.PAUSING and not held.dead and not held.releasing:
            use = self._observer.use(machine.id)
            self._note(held, cause_of_exit(held.binding.oom_kills, use.oom_kills if use else 0), use)

    def _note(self, held: Held, reason: DeathReason, use: Use | None) -> None:
        now = self._now()
        held.use = use or held.use
        kills = held.use.oom_kills if held.use else held.binding.oom_kills
        self._ledger.change(held, state=ClaimState.DEAD, reason=reason, died_at=now, last_seen_at=now, oom_kills=kills)
        self._count(reason)
