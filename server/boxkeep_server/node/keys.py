"""What a machine is bound to, and a snapshot is of: a role of a sandbox in one of its epochs; and how it is called."""

from typing import NamedTuple

from boxkeep_server.model.ids import is_id
from boxkeep_server.model.node_api import ClaimWish, Role, pause_name


class Key(NamedTuple):
    """A role of a sandbox in one epoch."""

    sandbox: str
    epoch: int
    role: Role

    @classmethod
    def of(cls, wish: ClaimWish) -> "Key":
        """The key that a wish asks for."""
        return cls(wish.sandbox, wish.epoch, wish.role)

    @property
    def name(self) -> str:
        """What the snapshot is called that a pause of it leaves. A checkpoint is called by its own id."""
        return pause_name(self.sandbox, self.epoch, self.role)

    @classmethod
    def named(cls, name: str) -> "Key | None":
        """The key of a pause's snapshot; None where the name is none of one."""
        sandbox, _, rest = name.partition("-")
        epoch, _, role = rest.partition("-")
        if is_id(sandbox) and epoch.isdecimal() and role == "main":
            return cls(sandbox, int(epoch), "main")
        return None
