"""URLs of terminals: each names its terminal, so that the same URL, or a new one for the same id, rejoins it."""

import secrets
from dataclasses import dataclass
from urllib.parse import urlencode

from boxkeep_server.web.parts import Caller, Parts
from boxkeep_server.web.tokens import Purpose

NONCE_BYTES = 8
SOCKET_PATH = "/v1/sandboxes/terminal"


@dataclass(frozen=True, slots=True)
class TerminalUrl:
    """A WebSocket URL, the token in it, and when that expires (epoch ms)."""

    url: str
    token: str
    expires_at: int


def new_terminal_id(parts: Parts, sandbox_id: str) -> str:
    """An id for a new terminal of a sandbox. Ids of other sandboxes' terminals, and made-up ones, are none of its."""
    return parts.tokens.new_name(sandbox_id, secrets.token_hex(NONCE_BYTES))


def terminal_url(parts: Parts, caller: Caller, sandbox_id: str, terminal_id: str) -> TerminalUrl:
    """A signed URL of a terminal of a sandbox."""
    token, expires_at = parts.tokens.sign(caller.organisation, sandbox_id, Purpose.TERMINAL, caller.key_id, terminal_id)
    query = urlencode({"id": sandbox_id, "terminalId": terminal_id, "token": token})
    return TerminalUrl(f"ws{parts.public_url.removeprefix('http')}{SOCKET_PATH}?{query}", token, expires_at)
