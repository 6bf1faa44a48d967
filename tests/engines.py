"""Engines for tests, named for their fault, all with the machines of one node in a dict."""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence

from boxkeep_server.engine.interface import (
    AlreadyReleased,
    MachineGone,
    NodeAway,
    NoRoom,
    NotPaused,
    PlacementFailed,
    PlacementLate,
    SnapshotUnfit,
    Unsupported,
)
from boxkeep_server.model.ids import new_id
from boxkeep_server.model.images import Layers
from boxkeep_server.model.machines import MAIN, names_of
from boxkeep_server.model.node_api import (
    BaseKind,
    Claim,
    ClaimHint,
    ClaimState,
    ClaimWish,
    DeathReason,
    IsolationFacts,
    Leaks,
    NodeFacts,
    Release,
    Role,
    Snapshot,
    SnapshotBases,
    checkpoint_name,
)

IMAGES = ("bun", "python", "base")
IMAGE = Layers(("1" * 32, "2" * 32))
BASES: frozenset[tuple[BaseKind, str]] = frozenset(
    [*(("layer", one) for one in IMAGE.digests), ("image", IMAGE.digest), ("guest", "g")]
)


def _content(kind: BaseKind, digest: str) -> bytes:
    return IMAGE.text if kind == "image" else f"{kind} {digest}".encode()


Body = tuple[str, int] | tuple[str, int, Role]


def body(sandbox: str, epoch: int, role: Role) -> Body:
    """What a machine is called here: by its role only where that is not the usual."""
    return (sandbox, epoch) if role == MAIN else (sandbox, epoch, role)


class MemoryEngine:
    """A node that does what it is asked, at once."""

    def __init__(self, now_ms: Callable[[], int], slots: int = 1000) -> None:
        self.now_ms = now_ms
        self.slots = slots
        self.disk_limit = True
        self.node_id = new_id()
        self.machines: dict[Body, Claim] = {}
        self.released: set[Body] = set()
        self.made = 0
        self.kept: dict[Body, Snapshot] = {}
        self.checkpoints: dict[str, Snapshot] = {}
        self.pause_fails: NotPaused | None = None
        self.wishes: list[ClaimWish] = []
        self.bases: set[tuple[BaseKind, str]] = set(BASES)
        self.images = list(IMAGES)

    @property
    def used(self) -> int:
        """How many slots are taken."""
        return sum(claim.state is not ClaimState.DEAD for claim in self.machines.values())

    async def place(self, wish: ClaimWish) -> tuple[str, Claim]:
        key = body(wish.sandbox, wish.epoch, wish.role)
        if key in self.released:
            raise AlreadyReleased("released")
        bound = (one for one in self.machines.values() if (one.sandbox, one.role) == (wish.sandbox, wish.role))
        if any(one.epoch > wish.epoch for one in bound):
            raise AlreadyReleased("a later epoch is bound")
        if wish.image not in self.images:
            raise Unsupported("no such image")
        if wish.origin is not None and wish.origin not in self._named():
            raise SnapshotUnfit("there is no such snapshot", self.node_id, wish.origin)
        if key not in self.machines:
            if self.used >= self.slots:
                raise NoRoom("full")
            self.made += 1
            self.wishes.append(wish)
            self.machines[key] = Claim(
                sandbox=wish.sandbox,
                epoch=wish.epoch,
                role=wish.role,
                machine=new_id(),
                isolation=wish.isolation or "runc",
                image=wish.image,
                digest=IMAGE.digest,
                state=ClaimState.RUNNING,
                address="127.0.0.1",
                port=1,
                secret="00" * 32,
                boot_id="b",
                claimed_at=self.now_ms(),
                not_after=wish.not_after,
                last_seen_at=self.now_ms(),
            )
        return self.node_id, self.machines[key]

    async def release(self, node: str | None, sandbox: str, epoch: int, role: Role = MAIN) -> Release:
        self.machines.pop(body(sandbox, epoch, role), None)
        self.released.add(body(sandbox, epoch, role))
        return Release()

    async def pause(
        self, node: str, sandbox: str, epoch: int, role: Role = MAIN, *, if_idle: bool, or_files: bool
    ) -> Snapshot:
        key = body(sandbox, epoch, role)
        if key in self.kept:
            return self.kept[key]
        claim = self.machines.get(key)
        if claim is None or claim.state is ClaimState.DEAD:
            raise MachineGone("there is none")
        if self.pause_fails is not None and (if_idle or not self.pause_fails.busy):
            raise self.pause_fails
        self.kept[key] = self._snapshot(claim)
        await self.release(node, sandbox, epoch, role)
        return self.kept[key]

    def _snapshot(self, claim: Claim, checkpoint: str | None = None, *, memory: bool = True) -> Snapshot:
        return Snapshot(
            sandbox=claim.sandbox,
            epoch=claim.epoch,
            role=claim.role,
            isolation=claim.isolation,
            image=claim.image,
            digest=IMAGE.digest,
            keeps="memory" if memory and claim.isolation == "runsc" else "files",
            bytes=1 << 30,
            taken_at=self.now_ms(),
            stood_ms=1,
            checkpoint=checkpoint,
        )

    async def checkpoint(
        self, node: str, sandbox: str, epoch: int, role: Role = MAIN, *, checkpoint: str, memory: bool
    ) -> Snapshot:
        name = checkpoint_name(checkpoint, role)
        if name in self.checkpoints:
            return self.checkpoints[name]
        claim = self.machines.get(body(sandbox, epoch, role))
        if claim is None:
            raise MachineGone("there is none")
        if self.pause_fails is not None:
            raise self.pause_fails
        self.checkpoints[name] = self._snapshot(claim, checkpoint, memory=memory)
        return self.checkpoints[name]

    async def forget(self, node: str, checkpoint: str) -> None:
        for name in names_of(checkpoint):
            self.checkpoints.pop(name, None)

    def _named(self) -> dict[str, Snapshot]:
        return {one.name: one for one in (*self.kept.values(), *self.checkpoints.values())}

    def _whole(self, name: str) -> Snapshot:
        found = self._named().get(name)
        if found is None:
            raise SnapshotUnfit("there is no such snapshot", self.node_id)
        return found

    async def bases_of(self, node: str, snapshot: str) -> SnapshotBases:
        return SnapshotBases(image=self._whole(snapshot).digest, guest="g")

    async def copy(self, node: str, snapshot: str, key: bytes) -> AsyncGenerator[bytes, None]:
        yield key
        yield self._whole(snapshot).model_dump_json().encode()

    async def bring(self, node: str, snapshot: str, key: bytes, chunks: AsyncIterable[bytes]) -> None:
        copy = b"".join([chunk async for chunk in chunks])
        if copy[:32] != key:
            raise SnapshotUnfit("it was sealed with another key")
        brought = Snapshot.model_validate_json(copy[32:])
        if brought.checkpoint is None:
            self.kept[body(brought.sandbox, brought.epoch, brought.role)] = brought
        else:
            self.checkpoints[brought.name] = brought

    async def hold_base(self, node: str, kind: BaseKind, digest: str) -> bool:
        return (kind, digest) in self.bases

    async def base(self, node: str, kind: BaseKind, digest: str) -> AsyncGenerator[bytes, None]:
        if (kind, digest) not in self.bases:
            raise SnapshotUnfit("there is none")
        yield _content(kind, digest)

    async def bring_base(self, node: str, kind: BaseKind, digest: str, chunks: AsyncIterable[bytes]) -> None:
        assert b"".join([chunk async for chunk in chunks]) == _content(kind, digest)
        if kind == "image":
            assert {("layer", one) for one in IMAGE.digests} <= self.bases, "an image came before its layers"
        self.bases.add((kind, digest))

    def lose_everything(self) -> None:
        """Be another node in the place of one whose disks are lost."""
        self.node_id = new_id()
        for held in (self.machines, self.kept, self.checkpoints, self.bases):
            held.clear()

    async def snapshots(self) -> dict[str, Sequence[Snapshot]]:
        return {self.node_id: (*self.kept.values(), *self.checkpoints.values())}

    async def discard(self, node: str, sandbox: str, through: int, role: Role = MAIN) -> None:
        for key in [key for key in self.kept if key == body(sandbox, min(key[1], through), role)]:
            del self.kept[key]

    async def claim(self, node: str, sandbox: str, epoch: int, role: Role = MAIN) -> Claim | None:
        return self.machines.get(body(sandbox, epoch, role))

    async def extend(self, node: str, sandbox: str, epoch: int, not_after: int, role: Role = MAIN) -> None:
        key = body(sandbox, epoch, role)
        if key in self.machines:
            self.machines[key] = self.machines[key].model_copy(update={"not_after": not_after})

    async def claims(self) -> dict[str, Sequence[Claim]]:
        return {self.node_id: tuple(self.machines.values())}

    async def nodes(self) -> Sequence[NodeFacts]:
        return [
            NodeFacts(
                node_id=self.node_id,
                boot_id="b",
                region="loc",
                version="0",
                isolations={
                    "runc": IsolationFacts(version="1", pause_keeps="files"),
                    "runsc": IsolationFacts(version="1", pause_keeps="memory"),
                },
                default_isolation="runc",
                images=dict.fromkeys(self.images, IMAGE.digest),
                slots=self.slots,
                slots_used=self.used,
                warm={},
                disk_limit=self.disk_limit,
                admitting=True,
            )
        ]

    async def watch(self) -> AsyncIterator[ClaimHint]:
        await asyncio.Event().wait()
        yield ClaimHint()

    async def leaks(self) -> Leaks:
        return Leaks(leaks=())

    def die(self, sandbox: str, reason: DeathReason, at: int, role: Role = MAIN) -> None:
        """End a machine under its sandbox."""
        key = next(key for key, one in self.machines.items() if (one.sandbox, one.role) == (sandbox, role))
        change = {"state": ClaimState.DEAD, "reason": reason, "died_at": at}
        self.machines[key] = self.machines[key].model_copy(update=change)


class NeverStarts(MemoryEngine):
    """A node whose machines fail to boot."""

    async def place(self, wish: ClaimWish) -> tuple[str, Claim]:
        raise PlacementFailed("its guest never answered")


class ComesLate(MemoryEngine):
    """A node whose machines do not come up in time, while `late`."""

    late = True

    async def place(self, wish: ClaimWish) -> tuple[str, Claim]:
        if self.late:
            raise PlacementLate("the machine did not come up in time")
        return await super().place(wish)


class AnswersLost(MemoryEngine):
    """A node that does what it is asked while every other answer is lost on the way."""

    def __init__(self, now_ms: Callable[[], int], slots: int = 1000) -> None:
        super().__init__(now_ms, slots)
        self._calls = 0

    def _maybe_lose(self) -> None:
        self._calls += 1
        if self._calls % 2:
            raise NodeAway("the answer was lost")

    async def place(self, wish: ClaimWish) -> tuple[str, Claim]:
        placed = await super().place(wish)
        self._maybe_lose()
        return placed

    async def release(self, node: str | None, sandbox: str, epoch: int, role: Role = MAIN) -> Release:
        released = await super().release(node, sandbox, epoch, role)
        self._maybe_lose()
        return released

    async def pause(
        self, node: str, sandbox: str, epoch: int, role: Role = MAIN, *, if_idle: bool, or_files: bool
    ) -> Snapshot:
        if body(sandbox, epoch, role) not in self.kept:
            await super().pause(node, sandbox, epoch, role, if_idle=if_idle, or_files=or_files)
        self._maybe_lose()
        return self.kept[body(sandbox, epoch, role)]

    async def checkpoint(
        self, node: str, sandbox: str, epoch: int, role: Role = MAIN, *, checkpoint: str, memory: bool
    ) -> Snapshot:
        taken = await super().checkpoint(node, sandbox, epoch, role, checkpoint=checkpoint, memory=memory)
        self._maybe_lose()
        return taken


@dataclasses.dataclass
class Clock:
    """Epoch ms that a test sets."""

    at: int = 1_800_000_000_000

    def __call__(self) -> int:
        return self.at
