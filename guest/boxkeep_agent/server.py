"""opencode itself: how it is set up and started, and whether it lives."""

import asyncio
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from boxkeep_agent.api import Api, Away, Refused
from boxkeep_agent.models import Models
from boxkeep_agent.wish import Wish
from boxkeep_desktop.display import free_port
from boxkeep_desktop.programs import Program

_PROGRAM: Final = "opencode"
_TOOLS: Final = "/.boxkeep/guest/bin/tools"
_TOOLS_NAME: Final = "sandbox"
_FIRST_PORT: Final = 4096
_START_S: Final = 120.0
_EVERY_S: Final = 0.2
_PROBE_S: Final = 2.0
_QUIET_MS: Final = 60_000
_ALONE: Final = {
    f"OPENCODE_DISABLE_{what}": "1"
    for what in ("MODELS_FETCH", "AUTOUPDATE", "LSP_DOWNLOAD", "DEFAULT_PLUGINS", "SHARE")
}
"""It asks nobody outside for anything but the model."""
_PASSING: Final = "/dev/shm/boxkeep-agent"  # noqa: S108 - within a sandbox
"""How directories begin in which it unpacks libraries, and deletes them while it uses them: in memory that keeps no
gVisor from writing memory down. Nobody knows how they go on, so that nobody can be there first."""


class NotStarted(Exception):
    """opencode does not start; the sentence says why."""


class OpenCode:
    """A running opencode that nobody but us can speak to. `agents` are those that it is known to have."""

    def __init__(self, program: Program, api: Api, port: int, passing: Path) -> None:
        self.api = api
        self._passing = passing
        self.port = port
        self.agents: set[str] = set()
        self._program = program

    @classmethod
    async def start(cls, wish: Wish, models: Models | None, asking: str) -> "OpenCode":
        """Start it and wait until it answers. `asking` is the socket by which its tools ask us.

        Raises:
            NotStarted
        """
        passing = Path(f"{_PASSING}-{os.urandom(8).hex()}")
        passing.mkdir(mode=0o700)
        port, password = free_port(_FIRST_PORT), os.urandom(24).hex()
        environment = {
            **_ALONE,
            "BUN_TMPDIR": str(passing),
            "OPENCODE_SERVER_PASSWORD": password,
            "OPENCODE_CONFIG_CONTENT": json.dumps(config(wish, models, asking)),
        }
        try:
            program = await Program.start(
                [_PROGRAM, "serve", "--hostname", "127.0.0.1", "--port", str(port)], environment
            )
        except OSError as error:
            raise NotStarted(f"There is no opencode here: {error}") from error
        api = Api(port, password, wish.workspace, "" if models is None else models.key)
        started = cls(program, api, port, passing)
        try:
            await started._until_it_answers()
        except BaseException:
            await started.end()
            raise
        return started

    async def ended(self) -> int:
        """Wait for its end; its exit status."""
        return await self._program.ended()

    async def end(self) -> None:
        """End it and what it has started."""
        await self._program.end()
        shutil.rmtree(self._passing, ignore_errors=True)

    async def _until_it_answers(self) -> None:
        """What is asked of it while it boots may never be answered: it is asked again and again."""
        deadline = asyncio.get_running_loop().time() + _START_S
        while self._program.running and asyncio.get_running_loop().time() < deadline:
            try:
                await self.api.call("GET", "/global/health", within_s=_PROBE_S)
            except (Away, Refused):
                await asyncio.sleep(_EVERY_S)
            else:
                return
        raise NotStarted(f"opencode does not start: {self.api.without_key(self._program.last_words)}")


def config(wish: Wish, models: Models | None, asking: str) -> Mapping[str, Any]:
    """How opencode is set up: with what model, with which tools, and with nobody to ask for leave."""
    told: dict[str, Any] = {
        "permission": {"*": "allow", "doom_loop": "deny", "question": "deny"},
        "share": "disabled",
        "autoupdate": False,
        **(models.config() if models is not None else {}),
    }
    if wish.browser:
        tools = {
            "type": "local",
            "command": [_TOOLS, "--browser", *(["--person"] if wish.person else [])],
            "environment": {"BOXKEEP_AGENT_SOCKET": asking},
            "enabled": True,
            "timeout": _QUIET_MS,  # without a word of progress: a person takes the time that a person takes
        }
        told["mcp"] = {_TOOLS_NAME: tools}
    return told
