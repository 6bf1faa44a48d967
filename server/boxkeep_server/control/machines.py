"""Machines of sandboxes: what a node is asked for in each role, and what is told of one that is lost."""

from collections.abc import Callable, Mapping
from typing import Final

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.control.steps import SYSTEM
from boxkeep_server.engine.interface import SnapshotUnfit
from boxkeep_server.model.checkpoints import Checkpoint, CheckpointState
from boxkeep_server.model.events import EventType
from boxkeep_server.model.machines import MAIN, SIDE_IMAGES, Key
from boxkeep_server.model.node_api import ClaimWish, NetworkWish, Role
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.store import checkpoints, sandboxes
from boxkeep_server.store.database import Database
from boxkeep_server.store.sealing import Seal

SLACK_MS: Final = 5_000
"""How much later than the control plane the node ends a machine by itself."""

_BECAME_FAILED: Final[Mapping[Role, EventType]] = {"browser": EventType.BROWSER_FAILED}


class Wishes:
    """Reads what is wished of sandboxes. Both machines are under the same isolation and reach the same networks, and
    both go on from a checkpoint that has both; the environment is the main one's alone."""

    def __init__(self, database: Database, seal: Seal, now_ms: Callable[[], int]) -> None:
        self._database = database
        self._seal = seal
        self._now_ms = now_ms

    async def of(self, sandbox: Sandbox, key: Key, *, anew: bool = False) -> ClaimWish:
        """What is asked for a machine of a sandbox; with `anew` it goes on from nothing.

        Raises:
            SnapshotUnfit: the checkpoint that it is to go on from is gone.
            SealBroken: its environment cannot be read.
        """
        origin = await self._origin(sandbox)
        is_main = key.role == MAIN
        resume = None if anew or origin is not None else _kept(sandbox, key)
        from_origin = origin is not None and not anew and (is_main or key.role in origin.sides)
        runs_until = sandbox.expires_at or self._now_ms() + sandbox.window_ms
        is_first = sandbox.kept_epoch is None and not sandbox.running
        isolation = sandbox.wished_isolation if is_first else sandbox.isolation
        return ClaimWish(
            sandbox=sandbox.id,
            epoch=key.epoch,
            role=key.role,
            image=sandbox.image if is_main else SIDE_IMAGES[key.role],
            isolation=isolation if origin is None else origin.isolation,
            not_after=runs_until + SLACK_MS,
            resume=resume,
            checkpoint=origin.id if origin and from_origin else None,
            fork=from_origin and origin is not None and origin.sandbox != sandbox.id,
            memory=not sandbox.files_only,
            hostname=f"{'sandbox' if is_main else key.role}-{sandbox.id[:8]}",
            env=await self._env(sandbox) if is_main and sandbox.env_names else {},
            network=NetworkWish(internet=sandbox.network.internet, allow=sandbox.network.allow),
        )

    async def _origin(self, sandbox: Sandbox) -> Checkpoint | None:
        if sandbox.origin is None:
            return None
        async with self._database.reading() as connection:
            found = await checkpoints.get(connection, sandbox.origin)
        if found is None or found.state is not CheckpointState.WHOLE:
            raise SnapshotUnfit("the checkpoint is gone")
        return found

    async def _env(self, sandbox: Sandbox) -> dict[str, str]:
        async with self._database.reading() as connection:
            sealed = (await sandboxes.sealed(connection, sandbox.id)).env
        env: dict[str, str] = {} if sealed is None else orjson.loads(self._seal.open(sealed, sandbox.id))
        return env


async def tell_lost(connection: AsyncConnection, sandbox: Sandbox, role: Role, words: str, at: int) -> None:
    """Write the event that what was in a machine beside the main one is lost, and why."""
    event, data = _BECAME_FAILED[role], {"reason": words}
    await sandboxes.tell(connection, sandbox.id, sandbox.organisation, event=event, at=at, actor=SYSTEM, data=data)


def _kept(sandbox: Sandbox, key: Key) -> int | None:
    """The epoch of the snapshot that a machine goes on from; None where it begins from its image."""
    return next((one.epoch for one in sandbox.kept if one.role == key.role), None)
