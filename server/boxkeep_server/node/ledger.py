"""The bindings of a node in memory, each change written to its file before anybody sees it."""

import asyncio
import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from boxkeep_server.model.machines import Key
from boxkeep_server.model.node_api import Claim, ClaimState, Role, Tail
from boxkeep_server.node.bindings import Binding, Bindings
from boxkeep_server.node.layer import LastWords, Subject, Use
from boxkeep_server.node.records import Machine
from boxkeep_server.node.watch import Hints


@dataclass(eq=False)
class Held:
    """A binding with what this process knows beyond it. `machine` is None until there is one that lives.

    `releasing`: somebody is removing it, so that its death is no news. `turn` is whose who pauses or removes it.
    """

    binding: Binding
    machine: Machine | None = None
    releasing: bool = False
    use: Use | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def key(self) -> Key:
        """What the machine is bound to."""
        return self.binding.key

    @property
    def dead(self) -> bool:
        """Whether the machine is dead."""
        return self.binding.state is ClaimState.DEAD


class Ledger:
    """Every binding of this node."""

    def __init__(self, files: Bindings, hints: Hints) -> None:
        self._files = files
        self._hints = hints
        self._held: dict[Key, Held] = {}

    def __iter__(self) -> Iterator[Held]:
        return iter(list(self._held.values()))

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: Key) -> Held | None:
        """What is bound so."""
        return self._held.get(key)

    def latest_epoch(self, sandbox: str, role: Role) -> int:
        """The highest epoch of a sandbox's role that is bound here, 0 where none is."""
        return max((key.epoch for key in self._held if key.sandbox == sandbox and key.role == role), default=0)

    def machines(self) -> set[str]:
        """The ids of all bound machines."""
        return {held.binding.machine for held in self._held.values()}

    def enter(self, binding: Binding, machine: Machine | None = None) -> Held:
        """Hold a binding that is on disk."""
        held = Held(binding, machine)
        self._held[binding.key] = held
        self._hints.tell(binding)
        return held

    def change(self, held: Held, **changes: object) -> None:
        """Change a binding on disk, then here; one that is no longer held stays gone."""
        if self._held.get(held.key) is not held:
            return
        binding = held.binding.with_(**changes)
        self._files.save(binding)
        held.binding = binding
        self._hints.tell(binding)

    def seen(self, held: Held, at: int, use: Use | None) -> None:
        """Note that a machine was alive; that is written down elsewhere, for all machines at once."""
        held.use = use or held.use
        kills = held.use.oom_kills if held.use else held.binding.oom_kills
        held.binding = held.binding.with_(last_seen_at=at, oom_kills=kills)

    def remove(self, held: Held) -> None:
        """Forget a binding. May be repeated."""
        self._files.remove(held.binding.machine)
        if self._held.get(held.key) is held:
            del self._held[held.key]


def subject_of(held: Held) -> Subject:
    """What is bound, as what is to be kept."""
    binding = held.binding
    return Subject(
        key=held.key,
        machine=binding.machine,
        record=held.machine,
        isolation=binding.isolation,
        image=binding.image,
        digests=binding.digests,
        secret=binding.secret,
    )


def shown(held: Held) -> Claim:
    """A binding as the API shows it."""
    binding = held.binding
    return Claim(
        sandbox=binding.sandbox,
        epoch=binding.epoch,
        role=binding.role,
        machine=binding.machine,
        isolation=binding.isolation,
        image=binding.image,
        digest=binding.digests["image"],
        state=binding.state,
        reason=binding.reason,
        address=binding.address,
        port=binding.port,
        secret=binding.secret,
        boot_id=binding.boot_id,
        claimed_at=binding.claimed_at,
        not_after=binding.not_after,
        last_seen_at=binding.last_seen_at,
        died_at=binding.died_at,
        oom_kills=held.use.oom_kills if held.use else binding.oom_kills,
        memory_bytes=held.use.memory_bytes if held.use and not held.dead else None,
        cpu_ms=held.use.cpu_ms if held.use else None,
    )


def told(words: Mapping[str, LastWords]) -> dict[str, Tail]:
    """Last words as the API tells them."""
    return {process: Tail(stdout=_base64(one.stdout), stderr=_base64(one.stderr)) for process, one in words.items()}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
