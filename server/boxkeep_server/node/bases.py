"""What snapshots are made over, images and guests: handed out and taken in by their content's names."""

import asyncio
import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boxkeep_server.model.node_api import BaseKind
from boxkeep_server.node import bundle, durable
from boxkeep_server.node.images import Images, archive_of, digest_of
from boxkeep_server.node.threads import in_thread

_BLOCK: Final = 1 << 20
_MOST: Final[dict[BaseKind, int]] = {"image": 16 << 30, "guest": 256 << 20}
_COMING: Final = ".coming-"
_PACK: Final = ("tar", "--numeric-owner", "--sort=name", "-c", "-C")
_UNPACK: Final = ("tar", "--numeric-owner", "--no-same-owner", "--preserve-permissions", "-x", "-C")


class NotThatContent(Exception):
    """What came is not what its name says."""


@dataclass(frozen=True)
class Bases:
    """The images and the guests of one node. Images in `archives` are those that were built or brought here."""

    images: Images
    archives: Path
    guests: Path

    async def has(self, kind: BaseKind, digest: str) -> bool:
        """Whether one is here; if so, machines can be made over it now."""
        if kind == "guest":
            return (self.guests / digest).is_dir()
        if not archive_of(self.archives, digest).is_file():
            return False
        await asyncio.to_thread(self.images.unpack, digest)
        return True

    async def read(self, kind: BaseKind, digest: str) -> AsyncGenerator[bytes, None]:
        """One as bytes that `take` takes on any node. Close it when done.

        Raises:
            FileNotFoundError: it is not here.
        """
        if kind == "image":
            descriptor = os.open(archive_of(self.archives, digest), os.O_RDONLY | os.O_CLOEXEC)
        else:
            descriptor = await asyncio.to_thread(_as_archive, self.guests / digest)
        return _read(descriptor)

    async def take(self, kind: BaseKind, digest: str, chunks: AsyncIterable[bytes]) -> None:
        """Have one, on the device; machines can be made over it then.

        Raises:
            NotThatContent: what comes has another name.
            OSError: it cannot be written.
            Exception: what `chunks` raises.
        """
        directory = self.archives if kind == "image" else self.guests
        async with _written(directory, chunks, _MOST[kind]) as fresh:
            await asyncio.to_thread(self._take_image if kind == "image" else self._take_guest, digest, fresh)

    def clear(self) -> None:
        """Remove what a process before this one was taking in. Blocking."""
        for directory in (self.archives, self.guests):
            for path in directory.glob(f"{_COMING}*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _take_image(self, digest: str, fresh: Path) -> None:
        if digest_of(fresh) != digest:
            raise NotThatContent("The image is not what its name says")
        fresh.rename(archive_of(self.archives, digest))
        durable.flush_directory(self.archives)
        self.images.unpack(digest)

    def _take_guest(self, digest: str, fresh: Path) -> None:
        tree = fresh.with_name(f"{fresh.name}.tree")
        tree.mkdir(mode=0o700)
        try:
            subprocess.run([*_UNPACK, tree, "-f", fresh], check=True, capture_output=True)
            tree.chmod(0o555)
            if bundle.digest_of(tree) != digest:
                raise NotThatContent("The guest is not what its name says")
            bundle.put(tree, self.guests / digest)
        except subprocess.CalledProcessError as error:
            raise NotThatContent("The guest is no archive") from error
        finally:
            shutil.rmtree(tree, ignore_errors=True)


@contextlib.asynccontextmanager
async def _written(directory: Path, chunks: AsyncIterable[bytes], most: int) -> AsyncIterator[Path]:
    """A file with these bytes, flushed, that is gone afterwards unless it was moved.

    Raises:
        NotThatContent: there are more than `most`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    fresh = directory / f"{_COMING}{secrets.token_hex(8)}"
    size = 0
    try:
        with fresh.open("xb", buffering=_BLOCK) as file:
            async for chunk in chunks:
                size += len(chunk)
                if size > most:
                    raise NotThatContent(f"It is larger than {most >> 20} MiB")
                await in_thread(file.write, chunk)
            await in_thread(file.flush)
            await in_thread(os.fsync, file.fileno())
        yield fresh
    finally:
        fresh.unlink(missing_ok=True)


def _as_archive(tree: Path) -> int:
    """A descriptor of an archive of a tree, in a file that nobody else sees."""
    if not tree.is_dir():
        raise FileNotFoundError(tree.name)
    descriptor = os.memfd_create("boxkeep-guest", os.MFD_CLOEXEC)
    try:
        subprocess.run([*_PACK, tree, "."], check=True, stdout=descriptor)
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


async def _read(descriptor: int) -> AsyncGenerator[bytes, None]:
    try:
        while block := await in_thread(os.read, descriptor, _BLOCK):
            yield block
    finally:
        os.close(descriptor)
