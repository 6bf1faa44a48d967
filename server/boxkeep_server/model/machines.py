"""The machines of a sandbox: one for each of its roles, what each is bound to, and what it begins from; pure."""

from collections.abc import Mapping
from typing import Final, NamedTuple, get_args

from boxkeep_server.model.ids import is_id
from boxkeep_server.model.images import BASE, image_of
from boxkeep_server.model.node_api import Claim, ClaimWish, Role, Snapshot, checkpoint_name, pause_name

MAIN: Final[Role] = "main"
"""The machine in which what its user runs is. A sandbox lives as long as this one does."""

SIDE_IMAGES: Final[Mapping[Role, str]] = {"browser": image_of(BASE, ("browser",))}
"""What the machines beside it begin from."""


class Key(NamedTuple):
    """A role of a sandbox in one epoch."""

    sandbox: str
    epoch: int
    role: Role = MAIN

    @classmethod
    def of(cls, one: ClaimWish | Claim | Snapshot) -> "Key":
        """The key that a wish asks for, or of which a claim or a pause's snapshot is."""
        return cls(one.sandbox, one.epoch, one.role)

    @property
    def name(self) -> str:
        """What the snapshot is called that a pause of it leaves."""
        return pause_name(self.sandbox, self.epoch, self.role)

    @classmethod
    def named(cls, name: str) -> "Key | None":
        """The key of a pause's snapshot; None where the name is none of one."""
        sandbox, _, rest = name.partition("-")
        epoch, _, called = rest.partition("-")
        role = next((one for one in get_args(Role) if one == called), None)
        if is_id(sandbox) and epoch.isdecimal() and role is not None:
            return cls(sandbox, int(epoch), role)
        return None


def names_of(checkpoint: str) -> frozenset[str]:
    """What the snapshots of a checkpoint may be called, one for each role."""
    return frozenset(checkpoint_name(checkpoint, role) for role in get_args(Role))


def is_name(name: str) -> bool:
    """Whether a snapshot may be called so: that of a pause, or of a checkpoint."""
    checkpoint, _, _ = name.partition("-")
    return Key.named(name) is not None or (is_id(checkpoint) and name in names_of(checkpoint))
