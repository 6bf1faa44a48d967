"""What the API is made of: the parts that `compose` hands to it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from boxkeep_server.control.agents import Agents
from boxkeep_server.control.artifacts import Artifacts
from boxkeep_server.control.browsers import Browsers
from boxkeep_server.control.checkpoints import Checkpoints
from boxkeep_server.control.commands import Commands
from boxkeep_server.control.documents import Documents
from boxkeep_server.control.files import Files
from boxkeep_server.control.handoffs import Handoffs
from boxkeep_server.control.idempotency import Idempotency
from boxkeep_server.control.keys import Caller, Keys
from boxkeep_server.control.pausing import Pausing
from boxkeep_server.control.presence import Attendance
from boxkeep_server.control.previews import Previews
from boxkeep_server.control.processes import Processes
from boxkeep_server.control.rates import Rates
from boxkeep_server.control.sandboxes import Sandboxes
from boxkeep_server.control.terminals import Terminals
from boxkeep_server.control.usage import Accounts
from boxkeep_server.control.webhooks import Webhooks
from boxkeep_server.model.previews import PreviewUrls
from boxkeep_server.web.metrics import Metrics
from boxkeep_server.web.tokens import Tokens

__all__ = ["Caller", "Parts"]


async def _always() -> None:
    return


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything that answers. `novnc` is where that package is, if it is there. `public_url` has no slash at its end;
    `ready` raises `Unavailable` when it is not so."""

    keys: Keys
    rates: Rates
    idempotency: Idempotency
    sandboxes: Sandboxes
    pausing: Pausing
    checkpoints: Checkpoints
    commands: Commands
    processes: Processes
    files: Files
    artifacts: Artifacts
    documents: Documents
    terminals: Terminals
    tokens: Tokens
    webhooks: Webhooks
    accounts: Accounts
    agents: Agents
    browsers: Browsers
    handoffs: Handoffs
    novnc: Path
    previews: Previews
    attendance: Attendance
    public_url: str
    preview_urls: PreviewUrls
    ready: Callable[[], Awaitable[None]] = _always
    metrics: Metrics = field(default_factory=Metrics)

    def active(self, sandbox_id: str) -> bool:
        """Whether a command, a terminal, an agent at work or a visitor of a preview is in a sandbox now."""
        busy = self.commands.active(sandbox_id) or self.agents.busy(sandbox_id)
        return busy or self.attendance.has(sandbox_id)
