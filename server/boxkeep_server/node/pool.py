"""The warm pool: machines that are up before anybody asks for them, by image and isolation."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from boxkeep_server.model.node_api import ImageName, Isolation
from boxkeep_server.node.berths import Berths
from boxkeep_server.node.layer import Birth, MachineFailed, Maker, Observer, Stock
from boxkeep_server.node.marks import Mark, Marks
from boxkeep_server.node.records import Machine

_log = logging.getLogger(__name__)

_HOSTNAME: Final = "sandbox"
_LONGEST_REST: Final = 64


@dataclass(frozen=True, slots=True)
class Kind:
    """What a warm machine is good for."""

    image: ImageName
    isolation: Isolation

    def __str__(self) -> str:
        return f"{self.image}/{self.isolation}"


@dataclass(frozen=True, slots=True)
class Warm:
    """A machine that waits."""

    mark: Mark
    machine: Machine

    @property
    def kind(self) -> Kind:
        """What it is good for."""
        return Kind(self.mark.image, self.mark.isolation)


class Pool:
    """The machines that wait. One that was taken never comes back."""

    def __init__(
        self,
        maker: Maker,
        observer: Observer,
        marks: Marks,
        berths: Berths,
        *,
        stock: Callable[[], Stock],
        wanted: Mapping[Kind, int],
        boot_id: str,
        new_id: Callable[[], str],
        new_secret: Callable[[], str],
    ) -> None:
        self._maker = maker
        self._observer = observer
        self._marks = marks
        self._berths = berths
        self._stock = stock
        self._wanted = wanted
        self._boot_id = boot_id
        self._new_id = new_id
        self._new_secret = new_secret
        self._warm: dict[str, Warm] = {}
        self._busy: set[str] = set()
        self._rest = 0
        self._failed = 0

    def adopt(self, mark: Mark, machine: Machine) -> None:
        """Go on with a machine that waited under the process before this one."""
        self._warm[mark.machine] = Warm(mark, machine)

    def take(self, kind: Kind) -> Machine | None:
        """A living machine of that kind as they are made today, the longest waiting; it is the caller's from now on.

        Once it is bound, `unmark` must follow.
        """
        today = self._stock().digests(kind.image, kind.isolation)
        for warm in list(self._warm.values()):
            if warm.kind == kind and warm.mark.digests == today and self._observer.alive(warm.machine):
                del self._warm[warm.machine.id]
                return warm.machine
        return None

    def unmark(self, machine: str) -> None:
        """Take the mark from a machine that was taken. May be repeated."""
        self._marks.remove(machine)

    def owned(self) -> set[str]:
        """The ids of all machines that wait, are being made to wait, or are being removed from here."""
        return {*self._warm, *self._busy}

    def counts(self) -> dict[str, int]:
        """How many wait, by kind; kinds that are wanted too when none does."""
        counts = {str(kind): 0 for kind in self._wanted}
        for warm in self._warm.values():
            counts[str(warm.kind)] = counts.get(str(warm.kind), 0) + 1
        return counts

    async def refill_once(self, room: Callable[[], bool]) -> int:
        """Make at most one machine where one lacks, while no claim waits and there is `room`; how many were made.

        After failures it rests for longer and longer: 1, 2, 4 … 64 calls.
        """
        await self._berths.quiet()
        kind = self._lacking()
        if kind is None or not room() or self._resting():
            return 0
        try:
            await self._make(kind)
        except MachineFailed as error:
            self._failed = min(_LONGEST_REST, self._failed * 2 or 1)
            self._rest = self._failed
            _log.warning("a warm %s could not be made: %s", kind, error)
            return 0
        self._failed = 0
        return 1

    async def tidy_once(self) -> int:
        """Remove the dead, and those made of what is no longer of today; how many."""
        stale = [warm for warm in self._warm.values() if not self._good(warm)]
        for warm in stale:
            await self.discard(warm)
        return len(stale)

    async def shed(self, most: int | None = None) -> int:
        """Remove machines that wait, at most that many; how many."""
        chosen = list(self._warm.values())[:most]
        for warm in chosen:
            await self.discard(warm)
        return len(chosen)

    async def discard(self, warm: Warm) -> None:
        """Remove one. Where that fails its id is given up to whoever sweeps."""
        machine = warm.machine.id
        if self._warm.pop(machine, None) is None:
            return
        self._busy.add(machine)
        try:
            self._marks.remove(machine)
            await self._maker.destroy(machine)
        except MachineFailed as error:
            _log.warning("warm machine %s could not be removed: %s", machine, error)
        finally:
            self._busy.discard(machine)

    def _resting(self) -> bool:
        self._rest = max(0, self._rest - 1)
        return self._rest > 0

    def _lacking(self) -> Kind | None:
        """The wanted kind that lacks the largest share of its machines."""
        counts = self.counts()
        shares = {
            kind: counts[str(kind)] / number
            for kind, number in self._wanted.items()
            if counts[str(kind)] < number and self._stock().digests(kind.image, kind.isolation) is not None
        }
        return min(shares, key=lambda kind: shares[kind], default=None)

    async def _make(self, kind: Kind) -> None:
        stock, machine = self._stock(), self._new_id()
        digests = stock.digests(kind.image, kind.isolation)
        assert digests is not None
        birth = Birth(machine, stock.images[kind.image], kind.isolation, _HOSTNAME, self._new_secret())
        self._busy.add(machine)
        try:
            made = await self._start(birth)
            mark = Mark(
                machine=machine, image=kind.image, isolation=kind.isolation, digests=digests, boot_id=self._boot_id
            )
            await self._mark(mark)
            self._warm[machine] = Warm(mark, made)
        finally:
            self._busy.discard(machine)

    async def _mark(self, mark: Mark) -> None:
        """What cannot be marked is nobody's."""
        try:
            self._marks.write(mark)
        except OSError as error:
            await self._maker.destroy(mark.machine)
            raise MachineFailed(f"it cannot be marked: {error}") from error

    async def _start(self, birth: Birth) -> Machine:
        try:
            machine = await self._maker.start(birth)
            await self._maker.rehearse(machine)
        except MachineFailed:
            await self._maker.destroy(birth.machine)
            raise
        return machine

    def _good(self, warm: Warm) -> bool:
        today = self._stock().digests(warm.mark.image, warm.mark.isolation)
        return warm.mark.digests == today and self._observer.alive(warm.machine)
