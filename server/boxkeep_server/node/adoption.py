"""Adoption: what a new node process does with the machines of the old, decided as a whole before anything is done."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from boxkeep_server.model.node_api import ClaimState, DeathReason
from boxkeep_server.node.bindings import Binding
from boxkeep_server.node.heartbeat import Beat
from boxkeep_server.node.marks import Mark


@dataclass(frozen=True, slots=True)
class Findings:
    """All that a new process finds. `current` gives for each mark's kind the digests of today, None if it is no more.

    `oom_kills`: the counters of machines that still have any.
    """

    boot_id: str
    now: int
    bindings: Sequence[Binding]
    released: Collection[str]
    marks: Sequence[Mark]
    current: Mapping[str, Mapping[str, str] | None]
    found: Collection[str]
    alive: Collection[str]
    with_disk: Collection[str]
    oom_kills: Mapping[str, int]
    beat: Beat | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do; machines are named by their ids.

    hold: bindings to go on with, as they are from now on. rewrite: those of them that differ from their files.
    end: alive, though bound as dead. finish: releases that were begun. unbind: claims that came to nothing.
    warm: wait on in the pool. unmark: marks that mark nothing. remove: belong to nobody.
    """

    hold: tuple[Binding, ...]
    rewrite: tuple[Binding, ...]
    end: tuple[str, ...]
    finish: tuple[Binding, ...]
    unbind: tuple[str, ...]
    warm: tuple[Mark, ...]
    unmark: tuple[str, ...]
    remove: tuple[str, ...]


def plan(findings: Findings) -> Plan:
    """The difference between what is written and what is there. Deciding twice without acting decides the same."""
    finish = tuple(one for one in findings.bindings if one.machine in findings.released)
    others = [one for one in findings.bindings if one.machine not in findings.released]
    unbind = tuple(one.machine for one in others if _came_to_nothing(one, findings))
    before = [one for one in others if not _came_to_nothing(one, findings)]
    hold = tuple(_as_found(one, findings) for one in before)
    bound = {one.machine for one in findings.bindings}
    warm = tuple(one for one in findings.marks if one.machine not in bound and _still_good(one, findings))
    owned = {*(one.machine for one in hold), *(one.machine for one in warm), *(one.machine for one in finish)}
    return Plan(
        hold=hold,
        rewrite=tuple(now for now, was in zip(hold, before, strict=True) if now.state != was.state),
        end=tuple(one.machine for one in hold if one.state is ClaimState.DEAD and one.machine in findings.alive),
        finish=finish,
        unbind=unbind,
        warm=warm,
        unmark=tuple(sorted({one.machine for one in findings.marks} - {one.machine for one in warm})),
        remove=tuple(sorted({*findings.found, *unbind} - owned)),
    )


def _came_to_nothing(binding: Binding, findings: Findings) -> bool:
    return binding.state is ClaimState.STARTING and binding.machine not in findings.alive


def _as_found(binding: Binding, findings: Findings) -> Binding:
    if binding.state not in (ClaimState.RUNNING, ClaimState.KEEPING):
        return binding
    beat = findings.beat
    if beat is not None and beat.boot_id == binding.boot_id and binding.machine in beat.oom_kills:
        seen = max(binding.last_seen_at, beat.at)
        binding = binding.with_(last_seen_at=seen, oom_kills=beat.oom_kills[binding.machine])
    if binding.machine in findings.alive:
        return binding.with_(last_seen_at=findings.now)
    return binding.with_(state=ClaimState.DEAD, reason=_reason(binding, findings), died_at=None)


def _reason(binding: Binding, findings: Findings) -> DeathReason:
    if binding.machine not in findings.with_disk:
        return DeathReason.DISK_LOST
    if binding.boot_id != findings.boot_id:
        return DeathReason.HOST_RESTARTED
    return cause_of_exit(binding.oom_kills, findings.oom_kills.get(binding.machine, 0))


def cause_of_exit(oom_kills_before: int, oom_kills_now: int) -> DeathReason:
    """Why a machine that nobody ended has died, by the kernel's counters when last seen alive and after."""
    return DeathReason.OUT_OF_MEMORY if oom_kills_now > oom_kills_before else DeathReason.EXITED


def _still_good(mark: Mark, findings: Findings) -> bool:
    return (
        mark.boot_id == findings.boot_id
        and mark.machine in findings.alive
        and findings.current.get(mark.machine) == mark.digests
    )
