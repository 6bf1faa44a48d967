"""What nodes report of machines, held against what the store wants of them: who is dead, and what is nobody's."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from boxkeep_server.model.machines import Key
from boxkeep_server.model.node_api import Claim, ClaimState, DeathReason
from boxkeep_server.model.sandboxes import Reason, Sandbox
from boxkeep_server.model.statuses import Status

REASONS: Final = {
    None: Reason.MACHINE_DIED,
    DeathReason.EXITED: Reason.MACHINE_DIED,
    DeathReason.OUT_OF_MEMORY: Reason.OUT_OF_MEMORY,
    DeathReason.HOST_MEMORY: Reason.HOST_MEMORY,
    DeathReason.EXPIRED: Reason.MAX_DURATION,
    DeathReason.BOOT_FAILED: Reason.BOOT_FAILED,
    DeathReason.HOST_RESTARTED: Reason.NODE_RESTARTED,
    DeathReason.DISK_LOST: Reason.DISK_LOST,
}
"""Why a sandbox is over whose machine died of this."""


@dataclass(frozen=True, slots=True)
class Death:
    """A ready sandbox without a living machine; its hours ran until `at`, when that was last known to live."""

    sandbox: Sandbox
    reason: Reason
    at: int

    @property
    def status(self) -> Status:
        """Where the sandbox goes: a machine that its node ended in time has ended, any other has failed."""
        return Status.ENDING if self.reason is Reason.MAX_DURATION else Status.FAILED


def deaths(ready: Sequence[Sandbox], claims: Mapping[Key, Claim], seen: Mapping[Key, int]) -> list[Death]:
    """Which of the sandboxes that were ready before `claims` were read have lost their main machine, and are over with
    it; any other is mended.

    `seen` says when machines were alive in earlier reports; one whose node knows nothing of it any more, and that was
    never seen since it was ready, is taken to have lived no longer: hours that nobody saw are not charged.
    """
    found = []
    for sandbox in ready:
        body = sandbox.machines[0]
        claim = claims.get(body)
        if claim is None:
            found.append(Death(sandbox, Reason.MACHINE_DIED, seen.get(body, sandbox.ready_at or sandbox.queued_at)))
        elif claim.state is ClaimState.DEAD:
            at = claim.last_seen_at if claim.died_at is None else claim.died_at
            found.append(Death(sandbox, REASONS[claim.reason], at))
    return found


def strays(claims: Collection[Key], answered_for: Collection[Key]) -> list[Key]:
    """Claims that no row answers for: of sandboxes that are not there, are released or paused, or have a newer machine.

    `answered_for`, the machines that rows want, must have been read after `claims`: a claim is made only once
    its row wants it. What has failed and is not released is for `Release`, which has to see what it left.
    """
    return [key for key in claims if key not in answered_for]
