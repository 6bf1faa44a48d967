"""Recordings on the disk: parts under way, of which whole files are made, which wait to be fetched within bounds."""

import asyncio
import contextlib
import os
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from boxkeep_desktop.programs import Program

MOST: Final = 512 << 20
_FINISH_S: Final = 30.0
_PARTS: Final = "under-way"
_BOX: Final = struct.Struct(">I4s")


class Recordings:
    """The recordings of a directory: whole ones lie in it, named by when they begin, parts in a directory below.

    Whole ones take `most` bytes at most: of more, the oldest are emptied. Their names then tell that there was one.
    """

    def __init__(self, directory: Path, most: int = MOST) -> None:
        self._directory = directory
        self._parts = directory / _PARTS
        self._most = most

    def part(self, now: float) -> Path:
        """Where a recording is to be written that begins at `now`, epoch seconds."""
        with contextlib.suppress(OSError):  # where there is no room for a directory, there is none for what is in it
            self._parts.mkdir(mode=0o700, parents=True, exist_ok=True)
        moment = time.strftime("%Y-%m-%dT%H-%M-%S", time.gmtime(now))
        return self._parts / f"{moment}.{int(now * 1000) % 1000:03}Z.mp4"

    def parts(self) -> Sequence[Path]:
        """All parts, the oldest first."""
        return sorted(self._parts.glob("*.mp4"))

    def whole(self) -> Sequence[Path]:
        """All whole recordings, the oldest first."""
        return sorted(self._directory.glob("*.mp4"))

    async def finish(self, part: Path) -> None:
        """Make a whole recording of a part that nobody writes any more, or remove one that shows nothing.

        It is given the form that plays before it is loaded; where that fails, as for want of room, it keeps its own,
        which plays too.
        """
        if not shows(part):
            part.unlink(missing_ok=True)
            return
        made = part.with_suffix(".made")
        if await _remade(part, made):
            made.rename(self._directory / part.name)
            part.unlink()
        else:
            made.unlink(missing_ok=True)
            part.rename(self._directory / part.name)
        self.trim()

    def trim(self) -> None:
        """Empty the oldest where they take too much."""
        found = [(file, _size(file)) for file in self.whole()]
        over = sum(size for _, size in found) - self._most
        for file, size in found:
            if over > 0 and size:
                with contextlib.suppress(FileNotFoundError):
                    os.truncate(file, 0)
                over -= size


def shows(part: Path) -> bool:
    """Whether a part has a frame, all of it."""
    try:
        with part.open("rb") as file:
            return any(name == b"mdat" for name in _boxes(file))
    except FileNotFoundError:
        return False


def _boxes(file: BinaryIO) -> Iterator[bytes]:
    """The names of the whole boxes that a file of MP4 is made of (ISO/IEC 14496-12): size, name, content."""
    end = os.fstat(file.fileno()).st_size
    at = 0
    while len(head := file.read(_BOX.size)) == _BOX.size:
        size, name = _BOX.unpack(head)
        at += size
        if size < _BOX.size or at > end:
            return
        yield name
        file.seek(at)


async def _remade(part: Path, made: Path) -> bool:
    """Write the same frames with their index before them; whether that has come to an end."""
    form = ["-map", "0:v", "-c", "copy", "-map_metadata", "-1", "-fflags", "+bitexact", "-movflags", "+faststart"]
    argv = ["ffmpeg", "-nostdin", "-loglevel", "error", "-y", "-i", str(part), *form, "-f", "mp4", str(made)]
    try:
        program = await Program.start(argv)
    except OSError:
        return False
    try:
        async with asyncio.timeout(_FINISH_S):
            return await program.ended() == 0
    except TimeoutError:
        return False
    finally:
        await program.end()


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
