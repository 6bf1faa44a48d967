"""Records the screen of a display: file after file, each of which begins before the one before it ends."""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Final

from boxkeep_desktop.passing import until_one_ends
from boxkeep_desktop.programs import Program
from boxkeep_desktop.recordings import MOST, Recordings, shows
from boxkeep_desktop.reports import report

RATE: Final = 5
"""Frames a second: enough to see what was done, for little of a processor; under gVisor each costs four times that."""
GENERATION: Final = Path("/run/boxkeep/generation")
_BEGIN_S: Final = 30.0
_LOOK_S: Final = 0.1
_COUNT_S: Final = 1.0
_AGAIN_S: Final = 2.0
_LEAST_S: Final = 0.01
_MOST_S: Final = 5


class Recorder:
    """Records into a directory, a file at least every `file_s` seconds, and says how many wait there to be fetched.

    A part is written so that whatever ends it, at most its last frame is missing. One ends, too, when the file
    `generation` says that the machine goes on from a snapshot: where it goes back, its name may have been taken since.
    """

    def __init__(self, directory: Path, file_s: float, generation: Path = GENERATION) -> None:
        self._recordings = Recordings(directory)
        self._file_s = file_s
        self._generation = generation
        self._moved = asyncio.Event()
        self._recording: asyncio.Task[None] | None = None
        self._finishing = {asyncio.create_task(self._recordings.finish(part)) for part in self._recordings.parts()}
        self._counting = asyncio.create_task(self._count())

    async def show(self, display: str) -> None:
        """Record that display from now on, as large as it is now."""
        await self.hide()
        self._recording = asyncio.create_task(self._record(display))

    async def hide(self) -> None:
        """Record nothing from now on. May be repeated."""
        recording, self._recording = self._recording, None
        if recording is not None:
            recording.cancel()
            await asyncio.gather(recording, return_exceptions=True)

    async def close(self) -> None:
        """Record nothing more, and return when all that was recorded is whole."""
        await self.hide()
        await asyncio.gather(*self._finishing, return_exceptions=True)
        self._counting.cancel()

    async def _count(self) -> None:
        said, began = -1, _read(self._generation)
        while True:
            if (now := _read(self._generation)) != began:
                began = now
                self._moved.set()
            self._recordings.trim()
            if (waiting := len(self._recordings.whole())) != said:
                said = waiting
                report("fact", facts={"recordings": str(said)})
            await asyncio.sleep(_COUNT_S)

    async def _record(self, display: str) -> None:
        takes: list[_Take] = []
        try:
            while True:
                self._moved.clear()
                takes.append(await _Take.of(display, self._recordings.part(time.time())))
                await takes[-1].begun()
                while len(takes) > 1:
                    await self._end(takes[0])
                    del takes[0]  # not before: whoever breaks this off ends those that are left
                await takes[-1].over(self._file_s, self._moved)
        finally:
            for take in takes:
                await self._end(take)

    async def _end(self, take: "_Take") -> None:
        """End a take; its file is made whole in its own time."""
        await take.end()
        task = asyncio.create_task(self._recordings.finish(take.part))
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)


class _Take:
    """One file under way, and the program that writes it."""

    def __init__(self, program: Program, part: Path) -> None:
        self._program = program
        self.part = part

    @classmethod
    async def of(cls, display: str, part: Path) -> "_Take":
        return cls(await Program.start(_argv(display, part)), part)

    async def begun(self) -> None:
        """Return when its first frame is written, or will not be."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BEGIN_S):
                while self._program.running:
                    if shows(self.part):
                        return
                    await asyncio.sleep(_LOOK_S)

    async def over(self, within_s: float, moved: asyncio.Event) -> None:
        """Return when it has lasted so long, is over, or something has moved; if it came to nothing, a little later."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await until_one_ends(self._program.ended(), moved.wait())
        if not self._program.running and not shows(self.part):
            await asyncio.sleep(_AGAIN_S)

    async def end(self) -> None:
        await self._program.end()


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def _argv(display: str, part: Path) -> list[str]:
    pictures = [
        # The time between two as it was, but for jumps: of a clock that is set, and over a pause.
        f"setpts='if(N,PREV_OUTPTS+clip(PTS-PREV_INPTS,{_LEAST_S}/TB,{_MOST_S}/TB),0)'",
        "scale=out_color_matrix=bt709:out_range=tv",
        "format=yuv420p",
        f"mpdecimate=max={RATE}:hi=0:lo=0:frac=0",  # of a still screen one a second
        "pad=ceil(iw/2)*2:ceil(ih/2)*2",
    ]
    colours = [word for name in ("colorspace", "color_primaries", "color_trc") for word in (f"-{name}", "bt709")]
    form = ["-movflags", "+frag_every_frame+empty_moov+default_base_moof", "-flush_packets", "1", "-f", "mp4"]
    return [
        *("ffmpeg", "-nostdin", "-loglevel", "error", "-y"),
        *("-f", "x11grab", "-framerate", str(RATE), "-i", display),
        *("-vf", ",".join(pictures), "-fps_mode", "vfr", "-enc_time_base", "1:1000"),
        *("-c:v", "libx264", "-preset", "veryfast", "-tune", "zerolatency", "-crf", "28"),
        *("-g", str(20 * RATE), "-threads", "1", *colours),
        *("-fs", str(MOST // 4), *form, str(part)),
    ]
