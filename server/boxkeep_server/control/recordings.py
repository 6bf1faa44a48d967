"""Recordings of browsers: what is whole in a sandbox is published as an artifact, once, and taken away there."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from boxkeep_server.control.artifacts import Artifacts
from boxkeep_server.control.files import Files, Place
from boxkeep_server.control.inside import Entry
from boxkeep_server.control.keys import Caller, owner
from boxkeep_server.control.patience import while_away
from boxkeep_server.control.steps import SYSTEM, Steps
from boxkeep_server.control.visits import Visits
from boxkeep_server.model.browsers import NAME, RECORDINGS_FOLDER, browser_wish
from boxkeep_server.model.errors import (
    BoxkeepError,
    Conflict,
    Invalid,
    NotFound,
    NotReady,
    SandboxFault,
    TimedOut,
)
from boxkeep_server.model.events import EventType
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.store import companions, sandboxes
from boxkeep_server.store.database import Database

AT_ONCE: Final = 20
"""How many are published before others are looked after: whoever makes more than a browser does has to wait."""
WITHIN_S: Final = 120.0
END_S: Final = 20.0
UNDER_WAY: Final = "under-way"
HEAD_MOST: Final = 2_000
"""Bytes that a part has before its first frame, at most."""
NAMED_MOST: Final = 20
LOST: Final = "There was no room for it in the sandbox until it could be published"
_TYPE: Final = "video/mp4"
_NAME: Final = re.compile(r"[0-9TZ.-]{1,40}\.mp4")
_OF_ONE: Final = (NotFound, Invalid, Conflict, SandboxFault)


@dataclass(slots=True)
class Look:
    """What came of a look into a sandbox: how many recordings were published, the keys of those that were not, and
    what kept them from it."""

    published: int = 0
    left: list[str] = field(default_factory=list)
    error: BoxkeepError | None = None


class Recordings:
    """Goes into sandboxes by `visits`; `files` and `artifacts` have to lead into the same."""

    def __init__(
        self,
        database: Database,
        steps: Steps,
        visits: Visits,
        files: Files,
        artifacts: Artifacts,
        folder: str = RECORDINGS_FOLDER,
    ) -> None:
        self._database = database
        self._steps = steps
        self._visits = visits
        self._files = files
        self._artifacts = artifacts
        self._folder = folder

    async def publish(self, sandbox: Sandbox, most: int = AT_ONCE) -> Look:
        """Publish recordings that are whole, the oldest first. May be repeated, and broken off anywhere: what is
        published is known by its name, and taken away in the sandbox after that alone."""
        look = Look()
        try:
            await self._look(sandbox, look, self._folder, most)
        except BoxkeepError as error:
            look.error = error
        return look

    async def finish(self, sandbox: Sandbox, within_s: float) -> None:
        """Publish all that is recorded of a sandbox that is ending, what is under way too, and tell what could not
        be. What no desktop lives to make whole is published as it was left: that plays, too."""
        wish = browser_wish(sandbox.capabilities)
        if wish is None or not wish.recording:
            return
        until = asyncio.get_running_loop().time() + within_s
        look = Look()
        try:
            async with asyncio.timeout_at(until):
                await while_away(partial(self._finish, sandbox, look), until)
        except NotReady:
            return  # there is no machine that could be asked
        except TimeoutError:
            look.error = TimedOut(f"The recordings were not published within {within_s:.0f} s")
        except BoxkeepError as error:
            look.error = error
        if look.error is not None:
            await self.tell(sandbox, look.left, str(look.error), look.published)

    async def _finish(self, sandbox: Sandbox, look: Look) -> None:
        look.left, look.error = [], None
        await self._end_browser(sandbox)
        await self._look(sandbox, look, self._folder)
        await self._look(sandbox, look, f"{self._folder}/{UNDER_WAY}", least=HEAD_MOST)

    async def tell(self, sandbox: Sandbox, keys: Sequence[str], reason: str, published: int = 0) -> None:
        """Have the sandbox's timeline say that these were not published."""
        async with self._database.writing() as connection:
            await sandboxes.tell(
                connection,
                sandbox.id,
                sandbox.organisation,
                event=EventType.ARTIFACTS_MISSED,
                at=self._steps.now_ms(),
                actor=SYSTEM,
                data={"published": published, "missed": len(keys), "keys": keys[:NAMED_MOST], "reason": reason},
            )

    async def _look(self, sandbox: Sandbox, look: Look, folder: str, most: int | None = None, least: int = 0) -> None:
        """Publish what lies in a folder, of at least `least` bytes; the first `most` of it."""
        caller = await owner(self._database, sandbox.organisation)
        found = [one for one in await self._found(caller, sandbox, folder) if one.size >= least][:most]
        look.left += [_key(one) for one in found]
        await self._lose(sandbox, look, [one for one in found if one.size == 0])
        for one in found:
            if one.size > 0:
                try:
                    await self._publish(caller, sandbox, folder, one)
                except NotReady:
                    raise
                except _OF_ONE as error:  # one that keeps no other from being published
                    look.error = error
                else:
                    look.published += 1
                    look.left.remove(_key(one))

    async def _publish(self, caller: Caller, sandbox: Sandbox, folder: str, one: Entry) -> None:
        await self._artifacts.publish(
            caller,
            sandbox.id,
            Place(path=f"{folder}/{one.name}"),
            key=_key(one),
            content_type=_TYPE,
            artifact_id=_artifact_id(sandbox, one),
            within_s=WITHIN_S,
        )
        await self._remove(sandbox, folder, one)

    async def _lose(self, sandbox: Sandbox, look: Look, emptied: Sequence[Entry]) -> None:
        """Tell of those that the desktop has given up for want of room."""
        if emptied:
            await self.tell(sandbox, [_key(one) for one in emptied], LOST)
        for one in emptied:
            await self._remove(sandbox, self._folder, one)
            look.left.remove(_key(one))

    async def _remove(self, sandbox: Sandbox, folder: str, one: Entry) -> None:
        visit = await self._visits.of(sandbox.id)
        with suppress(NotFound):
            await visit.call({"op": "file.remove", "path": f"{folder}/{one.name}", "recursive": False})

    async def _found(self, caller: Caller, sandbox: Sandbox, folder: str) -> Sequence[Entry]:
        try:
            entries = await self._files.list(caller, sandbox.id, Place(path=folder))
        except NotFound:
            return []
        mine = [one for one in entries if one.type == "file" and one.name and _NAME.fullmatch(one.name)]
        return sorted(mine, key=_key)

    async def _end_browser(self, sandbox: Sandbox) -> None:
        """Have nobody give orders to it any more: what it was recording is whole when it is gone."""
        async with self._database.reading() as connection:
            known = {one.name: one for one in await companions.of(connection, sandbox.id)}
        visit = await self._visits.of(sandbox.id)
        if NAME not in known:
            return
        process = known[NAME].process
        with suppress(NotFound, Conflict):  # it does not run
            await visit.upload({"op": "process.stdin", "id": process, "close": True}, _nothing())
            await visit.call({"op": "process.wait", "id": process, "timeoutMs": int(END_S * 1000)}, END_S + 5)


def _key(one: Entry) -> str:
    return f"recordings/{one.name}"


def _artifact_id(sandbox: Sandbox, one: Entry) -> str:
    """The same each time that a recording is published: the first time holds, whatever lies there later."""
    return hashlib.sha256(f"recording {sandbox.id} {one.name}".encode()).hexdigest()[:32]


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""
