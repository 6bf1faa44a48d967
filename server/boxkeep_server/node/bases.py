"""What snapshots are made over, layers, images and guests: handed out and taken in by their content's names."""

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

from boxkeep_server.model.images import Layers, read_layers
from boxkeep_server.model.node_api import BaseKind
from boxkeep_server.node import bundle, durable
from boxkeep_server.node.images import Images, archive_of, digest_of, is_whole, put_layers, text_of
from boxkeep_server.node.layers import BadLayer
from boxkeep_server.node.threads import in_thread

_BLOCK: Final = 1 << 20
_MOST: Final[dict[BaseKind, int]] = {"layer": 16 << 30, "image": 64 << 10, "guest": 256 << 20}
_COMING: Final = ".coming-"
_PACK: Final = ("tar", "--numeric-owner", "--sort=name", "-c", "-C")
_UNPACK: Final = ("tar", "--numeric-owner", "--no-same-owner", "--preserve-permissions", "-x", "-C")


class NotThatContent(Exception):
    """What came is not what its name says."""


@dataclass(frozen=True)
class Bases:
    """The images and the guests of one node. Images in `archives` are those that were built or brought here, each made
    of layers: an image is taken in once all of them are here."""

    images: Images
    archives: Path
    guests: Path

    async def has(self, kind: BaseKind, digest: str) -> bool:
        """Whether one is here; if so, machines can be made over it now."""
        if kind != "image":
            return self._place(kind, digest).exists()
        if not is_whole(self.archives, digest):
            return False
        await asyncio.to_thread(self.images.unpack, digest)
        return True

    async def read(self, kind: BaseKind, digest: str) -> AsyncGenerator[bytes, None]:
        """One as bytes that `take` takes on any node. Close it when done.

        Raises:
            FileNotFoundError: it is not here.
        """
        if kind == "guest":
            descriptor = await asyncio.to_thread(_as_archive, self._place(kind, digest))
        else:
            descriptor = os.open(self._place(kind, digest), os.O_RDONLY | os.O_CLOEXEC)
        return _read(descriptor)

    def _place(self, kind: BaseKind, digest: str) -> Path:
        if kind == "guest":
            return self.guests / digest
        return archive_of(self.archives, digest) if kind == "layer" else text_of(self.archives, digest)

    async def take(self, kind: BaseKind, digest: str, chunks: AsyncIterable[bytes]) -> None:
        """Have one, on the device; machines can be made over it then.

        Raises:
            NotThatContent: what comes has another name.
            OSError: it cannot be written.
            Exception: what `chunks` raises.
        """
        directory = self.guests if kind == "guest" else self.archives
        accept = {"layer": self._take_layer, "image": self._take_image, "guest": self._take_guest}[kind]
        async with _written(directory, chunks, _MOST[kind]) as fresh:
            await asyncio.to_thread(accept, digest, fresh)

    def clear(self) -> None:
        """Remove what a process before this one was taking in. Blocking."""
        for directory in (self.archives, self.guests):
            for path in directory.glob(f"{_COMING}*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _take_layer(self, digest: str, fresh: Path) -> None:
        if digest_of(fresh) != digest:
            raise NotThatContent("The layer is not what its name says")
        fresh.rename(archive_of(self.archives, digest))
        durable.flush_directory(self.archives)

    def _take_image(self, digest: str, fresh: Path) -> None:
        try:
            image = read_layers(fresh.read_bytes())
        except ValueError as error:
            raise NotThatContent("The image is none") from error
        self._check_image(digest, image)
        put_layers(self.archives, image)
        durable.flush_directory(self.archives)
        try:
            self.images.unpack(digest)
        except (subprocess.CalledProcessError, BadLayer) as error:
            text_of(self.archives, digest).unlink()
            raise NotThatContent("The image cannot be made of its layers") from error

    def _check_image(self, digest: str, image: Layers) -> None:
        if image.digest != digest:
            raise NotThatContent("The image is not what its name says")
        if missing := [one for one in image.digests if not archive_of(self.archives, one).is_file()]:
            raise NotThatContent(f"The image's layer {missing[0]} is not here")

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
