"""What a machine is bound to, and a snapshot is of: a role of a sandbox in one of its epochs."""

from typing import NamedTuple

from boxkeep_server.model.node_api import ClaimWish, Role


class Key(NamedTuple):
    """A role of a sandbox in one epoch."""

    sandbox: str
    epoch: int
    role: Role

    @classmethod
    def of(cls, wish: ClaimWish) -> "Key":
        """The key that a wish asks for."""
        return cls(wish.sandbox, wish.epoch, wish.role)
