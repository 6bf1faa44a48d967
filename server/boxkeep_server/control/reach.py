"""Where the guest of a ready sandbox is: from the claim that was given, or asked of its node again after a restart."""

from boxkeep_server.control.sandboxes import Sandboxes
from boxkeep_server.engine.interface import Engine, NodeAway
from boxkeep_server.guestwire import GuestAddress, GuestPool
from boxkeep_server.model.errors import NotReady, Unavailable
from boxkeep_server.model.machines import Key
from boxkeep_server.model.node_api import Claim, ClaimState, Role
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.model.statuses import Status

MOST_REMEMBERED = 20_000
_NOBODY_THERE = (ClaimState.STARTING, ClaimState.DEAD)


def address_of(claim: Claim) -> GuestAddress:
    """The way to the guest of a claimed machine."""
    return GuestAddress(claim.address, claim.port, claim.machine, claim.epoch, bytes.fromhex(claim.secret))


class LastLook:
    """The ways into sandboxes that are ending, whose machine lives yet. They are for our own purposes."""

    def __init__(self, reacher: "Reacher") -> None:
        self._reacher = reacher

    async def sandbox(self, organisation: str, sandbox_id: str) -> Sandbox:
        """See `Ways.sandbox`."""
        return await self._reacher.sandbox(organisation, sandbox_id)

    async def state(self, sandbox_id: str) -> Sandbox | None:
        """See `Ways.state`."""
        return await self._reacher.state(sandbox_id)

    def enters(self, sandbox: Sandbox) -> bool:
        """See `Ways.enters`."""
        return sandbox.status is Status.ENDING

    async def address(self, sandbox: Sandbox, role: Role) -> GuestAddress:
        """See `Ways.address`."""
        return await self._reacher.last_address(sandbox, role)


class Reacher:
    """Finds guests. What it remembers of a machine is forgotten when that is released."""

    def __init__(self, sandboxes: Sandboxes, engine: Engine, guests: GuestPool) -> None:
        self._sandboxes = sandboxes
        self._engine = engine
        self._guests = guests
        self._known: dict[Key, GuestAddress] = {}

    def remember(self, claim: Claim) -> None:
        """Note where a machine is that was just claimed; of very many the first is forgotten, to be asked for again."""
        if len(self._known) >= MOST_REMEMBERED:
            self._known.pop(next(iter(self._known)))
        self._known[Key.of(claim)] = address_of(claim)

    def forget(self, sandbox: Sandbox) -> None:
        """All machines of a sandbox are gone: close what is open to them."""
        for key in sandbox.machines:
            self.forget_machine(key)

    def forget_machine(self, key: Key) -> None:
        """A machine is gone: close what is open to it."""
        address = self._known.pop(key, None)
        if address is not None:
            self._guests.forget(address)

    async def sandbox(self, organisation: str, sandbox_id: str) -> Sandbox:
        """A sandbox of an organisation.

        Raises:
            SandboxNotFound: there is none, or it is another's.
        """
        return await self._sandboxes.of(organisation, sandbox_id)

    async def state(self, sandbox_id: str) -> Sandbox | None:
        """A sandbox, whoever it belongs to."""
        return await self._sandboxes.state(sandbox_id)

    def enters(self, sandbox: Sandbox) -> bool:
        """See `Ways.enters`."""
        return sandbox.running

    async def last_address(self, sandbox: Sandbox, role: Role) -> GuestAddress:
        """Where the guest of an ending sandbox is. Raises as `address`."""
        if sandbox.status is not Status.ENDING:
            raise NotReady
        return await self._address(sandbox, role)

    async def address(self, sandbox: Sandbox, role: Role) -> GuestAddress:
        """Where the guest of a ready sandbox is, in its machine of that role.

        Raises:
            NotReady: it is not ready, or its machine is gone.
            Unavailable: its node is away.
        """
        if not sandbox.running:
            raise NotReady
        return await self._address(sandbox, role)

    async def _address(self, sandbox: Sandbox, role: Role) -> GuestAddress:
        key = next((one for one in sandbox.machines if one.role == role), None)
        if sandbox.node is None or key is None:
            raise NotReady
        known = self._known.get(key)
        if known is not None:
            return known
        try:
            claim = await self._engine.claim(sandbox.node, *key)
        except NodeAway as error:
            raise Unavailable("The sandbox's node is away") from error
        if claim is None or claim.state in _NOBODY_THERE:
            raise NotReady
        self.remember(claim)
        return address_of(claim)

    async def oom_kills(self, sandbox: Sandbox) -> int:
        """How many of a sandbox's processes the kernel has killed for want of memory; 0 where that cannot be known."""
        if sandbox.node is None:
            return 0
        try:
            claim = await self._engine.claim(sandbox.node, sandbox.id, sandbox.epoch)
        except NodeAway:
            return 0
        return 0 if claim is None else claim.oom_kills
