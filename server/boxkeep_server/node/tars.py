"""Trees as archives of tar: of any volume, for any volume."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Final

from boxkeep_server.node.program_streams import Input, input_of, output_of
from boxkeep_server.node.threads import in_thread
from boxkeep_server.node.volumes import ARRIVING, DISK, Receiver, Trees

_ALL: Final = ("--numeric-owner", "--xattrs", "--xattrs-include=*", "--sparse")
_CREATE: Final = ("tar", "--create", "--format=posix", "--sort=name", *_ALL, "--warning=no-file-ignored")
_EXTRACT: Final = ("tar", "--extract", "--preserve-permissions", "--same-owner", "--delay-directory-restore", *_ALL)


def sent(tree: Path) -> AsyncGenerator[bytes, None]:
    """See `volumes.Streams.sent`. Sockets are left out: none of them can be connected to any more."""
    return output_of(*_CREATE, "--file=-", "--directory", tree, ".")


@contextlib.asynccontextmanager
async def receiving(trees: Trees, directory: Path) -> AsyncIterator[Receiver]:
    """See `volumes.Streams.receiving`. No name in the archive, and no link, leads tar out of the tree."""
    arriving = directory / ARRIVING
    await in_thread(trees.create, arriving)
    async with input_of(*_EXTRACT, "--file=-", "--directory", arriving) as program:
        yield _Archive(program, trees, arriving)


class _Archive:
    """An archive that is being unpacked."""

    def __init__(self, program: Input, trees: Trees, arriving: Path) -> None:
        self._program = program
        self._trees = trees
        self._arriving = arriving

    async def write(self, block: bytes) -> None:
        """See `volumes.Receiver.write`."""
        await self._program.write(block)

    async def end(self) -> None:
        """See `volumes.Receiver.end`."""
        await self._program.end()
        await in_thread(self._trees.settle, self._arriving, DISK)
