"""Copies of snapshots: handed out encrypted, and taken in from what another node, or this one, has handed out."""

import asyncio
import logging
from asyncio import Task, wait
from collections.abc import AsyncIterable, Awaitable, Callable, Collection
from contextlib import aclosing
from typing import Final

from boxkeep_server.model.node_api import Snapshot
from boxkeep_server.node import refusals
from boxkeep_server.node.crew import Crew
from boxkeep_server.node.layer import Keeper, MachineFailed, NoSpace, Unfit
from boxkeep_server.node.secretstream import StreamBroken, opened, sealed

_log = logging.getLogger(__name__)

_AT_ONCE: Final = 4


class Copies:
    """Which snapshots of one node are on their way out or in. What is removed stops to be on its way.

    `sweeping` is held while what is half written is looked for and removed: nothing comes in meanwhile.
    """

    def __init__(self, keeper: Keeper, crew: Crew) -> None:
        self._keeper = keeper
        self._crew = crew
        self._out: set[tuple[str, Task[None]]] = set()
        self._coming: dict[str, Task[Snapshot]] = {}
        self._places = asyncio.Semaphore(_AT_ONCE)
        self.sweeping = asyncio.Lock()

    async def hand_out(self, name: str, key: bytes, write: Callable[[bytes], Awaitable[object]]) -> None:
        """Write the copy of a snapshot, encrypted; it is whole when this returns.

        Raises:
            NoSuchClaim: there is no such snapshot, or it was removed meanwhile.
            Unfit, Broken: it is damaged or cannot be read.
            Exception: what `write` raises.
        """
        task = self._crew.start(self._hand_out(name, key, write))
        entry = (name, task)
        self._out.add(entry)
        task.add_done_callback(lambda _: self._out.discard(entry))
        try:
            await wait([task])
        finally:
            task.cancel()
        if task.cancelled():
            raise refusals.NoSuchClaim("The snapshot was removed")
        task.result()

    async def take_in(self, name: str, key: bytes, chunks: AsyncIterable[bytes]) -> Snapshot:
        """Have the snapshot of which this is the copy, verified and durable; one that is here and undamaged stays.

        Raises:
            NotYet: it is coming in already.
            Unfit: the copy is none of it, or was changed.
            NoSpace, Broken: it could not be written.
            Exception: what `chunks` raises.
        """
        async with self.sweeping:
            if name in self._coming:
                raise refusals.NotYet("The snapshot is coming in already")
            task = self._coming[name] = self._crew.start(self._take_in(name, key, chunks))
            task.add_done_callback(lambda _: self._coming.pop(name))
        try:
            await wait([task])
        finally:
            task.cancel()
        if task.cancelled():
            raise refusals.NoSuchClaim("The snapshot was removed")
        return task.result()

    async def stop(self, concerned: Callable[[str], bool]) -> None:
        """Have none of these on its way; returns when nothing reads or writes them any more."""
        tasks: list[Task[None] | Task[Snapshot]] = [task for name, task in self._out if concerned(name)]
        tasks += [task for name, task in self._coming.items() if concerned(name)]
        for task in tasks:
            task.cancel()
        if tasks:
            await wait(tasks)

    def strays(self, halves: Collection[str]) -> list[str]:
        """Those of these halves that are not coming in."""
        return [name for name in halves if name not in self._coming]

    async def _hand_out(self, name: str, key: bytes, write: Callable[[bytes], Awaitable[object]]) -> None:
        async with self._places:
            try:
                messages = self._keeper.pack(name)
                async with aclosing(messages), aclosing(sealed(key, messages)) as chunks:
                    async for chunk in chunks:
                        await write(chunk)
            except Unfit as error:
                raise refusals.Unfit(str(error)) from error
            except MachineFailed as error:
                _log.warning("snapshot %s is not handed out: %s", name, error)
                raise refusals.Broken(str(error)) from error

    async def _take_in(self, name: str, key: bytes, chunks: AsyncIterable[bytes]) -> Snapshot:
        async with self._places:
            try:
                async with aclosing(opened(key, chunks)) as messages:
                    return await self._keeper.unpack(name, messages)
            except StreamBroken as error:
                _log.warning("the copy of snapshot %s is not taken: %s", name, error)
                raise refusals.Unfit(f"The copy of the snapshot cannot be used: {error}") from error
            except Unfit as error:
                _log.warning("snapshot %s is not taken in: %s", name, error)
                raise refusals.Unfit(str(error)) from error
            except MachineFailed as error:
                _log.warning("snapshot %s is not taken in: %s", name, error)
                kind = refusals.NoSpace if isinstance(error, NoSpace) else refusals.Broken
                raise kind(str(error)) from error
