"""What commands, files and terminals ask of the rest of control to find their way into a sandbox."""

from typing import Protocol

from boxkeep_server.guestwire.address import GuestAddress
from boxkeep_server.model.node_api import Role
from boxkeep_server.model.sandboxes import Sandbox


class Ways(Protocol):
    """How control finds sandboxes, and the guests of those that are in the right state: ready, for almost all."""

    async def sandbox(self, organisation: str, sandbox_id: str) -> Sandbox:
        """A sandbox of an organisation. Raises `SandboxNotFound`."""

    async def state(self, sandbox_id: str) -> Sandbox | None:
        """A sandbox, whoever it belongs to."""

    def enters(self, sandbox: Sandbox) -> bool:
        """Whether these ways lead into a sandbox in its present state."""

    async def address(self, sandbox: Sandbox, role: Role) -> GuestAddress:
        """Where the guest of a sandbox is that these ways lead into, in its machine of that role. Raises `NotReady`."""
