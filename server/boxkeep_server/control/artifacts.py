"""What users do with artifacts: publish files of a sandbox, list, read and delete them, within their plan's storage."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.blobs.interface import Blobs, Digest, Written
from boxkeep_server.control.files import Files, Place, Reading
from boxkeep_server.control.inside import Entry
from boxkeep_server.control.keys import Caller
from boxkeep_server.control.sandboxes import Sandboxes
from boxkeep_server.control.steps import Steps
from boxkeep_server.control.strays import Strays
from boxkeep_server.model.artifacts import (
    MOST_IN_SANDBOX,
    Artifact,
    ArtifactNotFound,
    Kept,
    guessed_type,
    prefix_of,
    whole_key,
)
from boxkeep_server.model.errors import (
    Invalid,
    LimitReached,
    NotFound,
    SandboxFault,
    SandboxNotFound,
    TimedOut,
    TooLarge,
)
from boxkeep_server.model.ids import is_id, new_id
from boxkeep_server.model.plans import Plan
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.store import artifacts, organisations, storage
from boxkeep_server.store.database import Database

FOLDER: Final = "/workspace/artifacts"
MOST_AT_ONCE: Final = 1000
DEEPEST: Final = 16
PUBLISH_WITHIN_S: Final = 3600
"""How long one file may be on its way: less than what is left of a blob that no row names is spared for."""


@dataclass(frozen=True, slots=True)
class ArtifactPage:
    """Some artifacts by key, and where to go on."""

    items: Sequence[Artifact]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Published:
    """What of a folder was published, and the paths of what was not: neither file nor directory, or of a name that is
    no key."""

    items: Sequence[Artifact]
    skipped: Sequence[str]


class Artifacts:
    """The use cases. What belongs to another organisation is not found."""

    def __init__(
        self,
        database: Database,
        steps: Steps,
        sandboxes: Sandboxes,
        files: Files,
        blobs: Blobs,
        strays: Strays,
        draw_id: Callable[[], str] = new_id,
        folder: str = FOLDER,
    ) -> None:
        self._database = database
        self._steps = steps
        self._sandboxes = sandboxes
        self._files = files
        self._blobs = blobs
        self._strays = strays
        self._draw_id = draw_id
        self._folder = folder

    async def publish(
        self,
        caller: Caller,
        sandbox_id: str,
        place: Place,
        *,
        key: str | None = None,
        content_type: str | None = None,
        artifact_id: str | None = None,
        within_s: float = PUBLISH_WITHIN_S,
    ) -> Artifact:
        """Publish a file of a ready sandbox, in place of what was published under its key; what is there already under
        `artifact_id`, or with the same bytes and type, stays as it is.

        Raises:
            Invalid: the key is none, or the path is no file.
            LimitReached: the plan's storage is used up.
            SandboxNotFound, NotReady, NotFound: there is no such sandbox, it takes no calls, there is no such file.
            Unavailable, TimedOut: sandbox or store are away or slow; nothing was published.
        """
        made = await self._made(caller, artifact_id)
        if made is not None:
            return made
        sandbox = await self._sandboxes.get(caller, sandbox_id)
        named = place.name.decode("utf-8", "surrogateescape") if key is None else key
        full = whole_key(named, prefix_of(sandbox.capabilities))
        new_one = artifact_id or self._draw_id()
        blob = Artifact(new_one, caller.organisation, sandbox_id, full, 0, "", "", 0).blob
        async with self._strays.unless_done(blob):
            try:
                async with asyncio.timeout(within_s):
                    reading = await self._files.read(caller, sandbox_id, place)
                    async with aclosing(reading.chunks):
                        await self._check_room(caller, sandbox_id, full, reading.length)
                        written = await self._copy(blob, reading)
            except TimeoutError as late:
                raise TimedOut(f"The file was not stored within {within_s:.0f} s") from late
            new = Artifact(
                id=new_one,
                organisation=caller.organisation,
                sandbox=sandbox_id,
                key=full,
                size=written.size,
                content_type=content_type or guessed_type(full),
                sha256=written.sha256,
                created_at=self._steps.now_ms(),
            )
            return await self._accept(caller, new)

    async def _made(self, caller: Caller, artifact_id: str | None) -> Artifact | None:
        if artifact_id is None:
            return None
        async with self._database.reading() as connection:
            made = await artifacts.get(connection, artifact_id)
        return made if made is not None and made.organisation == caller.organisation else None

    async def _copy(self, blob: str, reading: Reading) -> Written:
        written = await self._blobs.put(blob, reading.chunks)
        if written.size != reading.length:
            raise SandboxFault("The file became shorter while it was read")
        return written

    async def _check_room(self, caller: Caller, sandbox_id: str, key: str, size: int) -> None:
        """Refuse before anything is copied what would be refused after it; what holds is checked with the row."""
        async with self._database.scanning() as connection:
            before = await artifacts.under(connection, caller.organisation, sandbox_id, key)
            stored = (await storage.stored(connection, caller.organisation)).bytes
        _check_stored(stored - (before.size if before else 0) + size, caller.plan.stored_bytes)

    async def _accept(self, caller: Caller, new: Artifact) -> Artifact:
        """Write the row of a blob that is stored; the blob that no row names any more goes."""
        try:
            async with self._database.writing() as connection:
                plan = await organisations.lock_organisation(connection, caller.organisation)
                before = await artifacts.under(connection, new.organisation, new.sandbox, new.key)
                same = before is not None and (before.sha256, before.content_type) == (new.sha256, new.content_type)
                if not same:
                    await _check_limits(connection, new, before, plan)
                    await artifacts.put(connection, new, before, caller.key_id)
        except LimitReached:
            await self._strays.delete(new.blob)
            raise
        if before is not None and same:
            if before.id != new.id:
                await self._strays.delete(new.blob)
            return before
        await self._tell(new.sandbox)
        if before is not None:
            await self._strays.delete(before.blob)
        return new

    async def publish_folder(self, caller: Caller, sandbox_id: str) -> Published:
        """Publish every regular file below `/workspace/artifacts`, under its path from there. No link is followed.

        Raises:
            TooLarge: there are more than `MOST_AT_ONCE` files, or they lie too deep; nothing was published.
            LimitReached: the plan's storage is used up; what was published before stays.
        """
        found, skipped = await self.below(caller, sandbox_id)
        items = [await self.publish_key(caller, sandbox_id, key) for key in found]
        return Published(items, skipped)

    async def publish_key(
        self, caller: Caller, sandbox_id: str, key: str, within_s: float = PUBLISH_WITHIN_S
    ) -> Artifact:
        """Publish the file of the folder that has this key. Raises as `publish`."""
        return await self.publish(caller, sandbox_id, Place(path=f"{self._folder}/{key}"), key=key, within_s=within_s)

    async def below(self, caller: Caller, sandbox_id: str) -> tuple[Sequence[str], Sequence[str]]:
        """The keys of the files in the folder, and of what else lies there. Raises as `publish_folder`."""
        await self._sandboxes.get(caller, sandbox_id)
        found: list[str] = []
        skipped: list[str] = []
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            for entry in await self._entries(caller, sandbox_id, folder):
                name = entry.name or ""
                key = f"{folder}{name}"
                if entry.type == "directory" and _is_key(key) and key.count("/") < DEEPEST:
                    waiting.append(f"{key}/")
                elif entry.type == "file" and _is_key(key):
                    found.append(key)
                else:
                    skipped.append(key)
            if len(found) + len(skipped) + len(waiting) > MOST_AT_ONCE:
                raise TooLarge(f"{self._folder} holds more than {MOST_AT_ONCE} files")
        return sorted(found), sorted(skipped)

    async def _entries(self, caller: Caller, sandbox_id: str, folder: str) -> Sequence[Entry]:
        """What a folder holds; one that is not there holds nothing."""
        try:
            if (
                await self._files.stat(caller, sandbox_id, Place(path=f"{self._folder}/{folder}".rstrip("/")))
            ).type != ("directory"):
                return []
            return await self._files.list(caller, sandbox_id, Place(path=f"{self._folder}/{folder}"))
        except SandboxNotFound:
            raise
        except NotFound:
            return []

    async def get(self, caller: Caller, sandbox_id: str, key: str) -> Artifact:
        """An artifact by its key, alive or not its sandbox.

        Raises:
            ArtifactNotFound: there is none.
        """
        async with self._database.reading() as connection:
            found = await artifacts.under(connection, caller.organisation, sandbox_id, key)
        if found is None:
            raise ArtifactNotFound
        return found

    async def list(self, caller: Caller, sandbox_id: str, cursor: str | None, limit: int) -> ArtifactPage:
        """The artifacts of a sandbox by key; the cursor is the last key.

        Raises:
            SandboxNotFound: there is no such sandbox, and nothing is left of it.
        """
        async with self._database.scanning() as connection:
            found = await artifacts.page(connection, caller.organisation, sandbox_id, cursor, limit + 1)
        if not found:
            await self._sandboxes.get(caller, sandbox_id)
        items = found[:limit]
        return ArtifactPage(items, items[-1].key if len(found) > limit else None)

    async def with_sandbox(self, organisation: str, sandbox_id: str) -> tuple[Sandbox, Kept | None]:
        """A sandbox of an organisation, and what there is of its artifacts.

        Raises:
            SandboxNotFound: there is none, or it is another's.
        """
        if not is_id(sandbox_id):
            raise SandboxNotFound
        async with self._database.reading() as connection:
            found = await artifacts.with_sandbox(connection, sandbox_id)
        if found is None or found[0].organisation != organisation:
            raise SandboxNotFound
        return found

    async def read(self, artifact: Artifact, offset: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        """A part of an artifact, by default all, which then is checked at its end. Close it when done.

        Raises:
            BlobNotFound, Unavailable, TimedOut: the store has it not, is away or slow.
            BlobDamaged: while it is read, where the bytes are not those that were published.
        """
        chunks = await self._blobs.get(artifact.blob, offset, length)
        return chunks if (offset, length) != (0, None) else _checked(artifact, chunks)

    async def delete(self, caller: Caller, sandbox_id: str, key: str) -> None:
        """Delete an artifact.

        Raises:
            ArtifactNotFound: there is none.
        """
        async with self._database.writing() as connection:
            await organisations.lock_organisation(connection, caller.organisation)
            found = await artifacts.under(connection, caller.organisation, sandbox_id, key)
            if found is None:
                raise ArtifactNotFound
            await artifacts.delete(connection, found, self._steps.now_ms(), caller.key_id)
        await self._tell(sandbox_id)
        await self._strays.delete(found.blob)

    async def _tell(self, sandbox_id: str) -> None:
        sandbox = await self._sandboxes.state(sandbox_id)
        if sandbox is not None:
            self._steps.tell(sandbox)


async def _check_limits(connection: AsyncConnection, new: Artifact, before: Artifact | None, plan: Plan) -> None:
    stored = (await storage.stored(connection, new.organisation)).bytes
    _check_stored(stored - (before.size if before else 0) + new.size, plan.stored_bytes)
    kept = await artifacts.kept(connection, new.sandbox)
    if before is None and kept is not None and kept.count >= MOST_IN_SANDBOX:
        raise LimitReached(f"A sandbox may have {MOST_IN_SANDBOX} artifacts")


def _check_stored(after: int, most: int | None) -> None:
    if most is not None and after > most:
        raise LimitReached("Storage limit reached")


def _is_key(key: str) -> bool:
    try:
        whole_key(key, "")
    except Invalid:
        return False
    return True


async def _checked(artifact: Artifact, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(chunks):
        async for chunk in Digest(chunks, artifact.sha256, artifact.size):
            yield chunk
