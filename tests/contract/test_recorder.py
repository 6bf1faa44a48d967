"""The recorder of the desktop over a real X server with the real ffmpeg: whatever ends it, what was seen is there."""

import asyncio
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio

from boxkeep_desktop.recorder import Recorder
from boxkeep_desktop.recordings import Recordings, shows
from tests.films import Colour, colours, like, plays, probed

RED: Colour = (255, 0, 0)
BLUE: Colour = (0, 0, 255)
WITHIN_S = 30.0
LONG_S = 600.0
PROGRAM = """if True:
    import asyncio, sys
    from pathlib import Path
    from boxkeep_desktop.recorder import Recorder
    async def run():
        recorder = Recorder(Path(sys.argv[1]), 600)
        await recorder.show(sys.argv[2])
        await asyncio.Event().wait()
    asyncio.run(run())
"""


class Screen:
    """A display of one colour."""

    def __init__(self) -> None:
        told, tell = os.pipe()
        words = ["-geometry", "641x481", "-depth", "24", "-SecurityTypes", "None", "-rfbport", "-1", "-nolisten", "tcp"]
        self.server = subprocess.Popen(
            ["Xvnc", "-displayfd", str(tell), "-noreset", *words],
            pass_fds=[tell],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(tell)
        with os.fdopen(told) as number:
            self.name = f":{number.readline().strip()}"

    def show(self, colour: Colour) -> None:
        self._run("xsetroot", "-solid", "#{:02x}{:02x}{:02x}".format(*colour))

    def resize(self, width: int, height: int) -> None:
        mode = f"{width}x{height}"
        timings = [*[str(width)] * 4, *[str(height)] * 4]
        self._run("xrandr", "--newmode", mode, "1", *timings)
        self._run("xrandr", "--addmode", "VNC-0", mode)
        self._run("xrandr", "--output", "VNC-0", "--mode", mode)

    def _run(self, *argv: str) -> None:
        subprocess.run(argv, check=True, env={**os.environ, "DISPLAY": self.name}, capture_output=True)

    def end(self) -> None:
        self.server.kill()
        self.server.wait()


@pytest.fixture
def screen() -> Iterator[Screen]:
    made = Screen()
    made.show(RED)
    yield made
    made.end()


@pytest_asyncio.fixture
async def film(tmp_path: Path) -> AsyncIterator[Callable[[float], Recorder]]:
    """Makes recorders into the test's directory, which end with it."""
    made: list[Recorder] = []

    def make(file_s: float = LONG_S) -> Recorder:
        made.append(Recorder(tmp_path, file_s))
        return made[-1]

    yield make
    for one in made:
        await one.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not holds():
            await asyncio.sleep(0.05)


def whole(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.mp4"))


def under_way(directory: Path) -> list[Path]:
    return sorted((directory / "under-way").glob("*.mp4"))


def grows(directory: Path) -> bool:
    """Whether something of the screen is written."""
    return any(shows(part) for part in under_way(directory))


def writers(directory: Path) -> list[int]:
    """The processes that write into a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if words.startswith(b"ffmpeg") and str(directory).encode() in words and b"x11grab" in words:
            found.append(int(process.name))
    return found


def begins(film: Path) -> float:
    return datetime.strptime(film.stem, "%Y-%m-%dT%H-%M-%S.%fZ").replace(tzinfo=UTC).timestamp()


async def test_what_is_on_the_screen_is_seen_in_files_that_follow_each_other_without_a_gap(
    screen: Screen, tmp_path: Path, film: Callable[..., Recorder]
) -> None:
    recorder = film(2.0)
    await recorder.show(screen.name)
    await until(lambda: len(whole(tmp_path)) == 1)
    screen.show(BLUE)
    await until(lambda: len(whole(tmp_path)) == 3)
    await recorder.close()
    assert under_way(tmp_path) == []
    films = whole(tmp_path)
    said = [plays(one) for one in films]
    assert {(one["width"], one["height"]) for one in said} == {(642, 482)}
    assert like(colours(films[0])[0], RED)
    assert like(colours(films[-1])[-1], BLUE)
    for one, next_one, of in zip(films, films[1:], said, strict=False):
        assert begins(next_one) < begins(one) + of["seconds"] + 1.5, "a second more than of a still screen is written"
        assert re.fullmatch(r"[0-9TZ.-]{1,40}\.mp4", one.name)


async def test_what_is_broken_off_while_one_file_gives_way_to_the_next_is_whole(
    screen: Screen, tmp_path: Path, film: Callable[..., Recorder]
) -> None:
    recorder = film(0.5)
    await recorder.show(screen.name)
    await until(lambda: grows(tmp_path))
    (first,) = writers(tmp_path)
    os.kill(first, signal.SIGSTOP)
    await until(lambda: len([part for part in under_way(tmp_path) if shows(part)]) == 2)
    await recorder.close()
    assert under_way(tmp_path) == []
    assert len([plays(one) for one in whole(tmp_path)]) == 2


async def test_a_still_screen_is_hardly_written(screen: Screen, tmp_path: Path, film: Callable[..., Recorder]) -> None:
    recorder = film()
    await recorder.show(screen.name)
    await until(lambda: frames(tmp_path) >= 4)
    await recorder.close()
    said = plays(whole(tmp_path)[0])
    assert said["frames"] <= said["seconds"] * 1.5 + 2
    assert whole(tmp_path)[0].stat().st_size < 20_000


def frames(directory: Path) -> int:
    """How many fragments have been written, of a frame each."""
    return sum(part.read_bytes().count(b"moof") for part in under_way(directory))


async def test_a_recording_whose_writer_is_killed_plays_and_another_begins(
    screen: Screen, tmp_path: Path, film: Callable[..., Recorder]
) -> None:
    recorder = film()
    await recorder.show(screen.name)
    await until(lambda: grows(tmp_path))
    (writer,) = writers(tmp_path)
    os.kill(writer, signal.SIGKILL)
    await until(lambda: len(whole(tmp_path)) == 1 and grows(tmp_path))
    screen.show(BLUE)
    await recorder.close()
    assert like(colours(whole(tmp_path)[0])[0], RED)
    for one in whole(tmp_path):
        plays(one)


async def test_what_a_killed_desktop_was_recording_is_whole_with_the_next(
    screen: Screen, tmp_path: Path, film: Callable[..., Recorder]
) -> None:
    desktop = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path), screen.name], stdout=subprocess.DEVNULL)
    try:
        await until(lambda: grows(tmp_path))
    finally:
        desktop.kill()
        desktop.wait()
    await until(lambda: not writers(tmp_path))
    assert whole(tmp_path) == []
    film()
    await until(lambda: len(whole(tmp_path)) == 1 and not under_way(tmp_path))
    plays(whole(tmp_path)[0])


async def test_it_goes_on_over_another_size_and_another_display(
    screen: Screen, tmp_path: Path, film: Callable[..., Recorder]
) -> None:
    recorder = film()
    await recorder.show(screen.name)
    await until(lambda: grows(tmp_path))
    screen.resize(401, 301)
    await recorder.show(screen.name)
    await until(lambda: len(whole(tmp_path)) == 1 and grows(tmp_path))
    screen.end()
    await until(lambda: len(whole(tmp_path)) == 2)
    other = Screen()
    try:
        await recorder.show(other.name)
        await until(lambda: grows(tmp_path))
        await recorder.close()
    finally:
        other.end()
    sizes = [(one["width"], one["height"]) for one in map(plays, whole(tmp_path))]
    assert sizes == [(642, 482), (402, 302), (642, 482)]


async def test_a_screen_that_gets_smaller_by_itself_is_recorded_on(
    screen: Screen, tmp_path: Path, film: Callable[..., Recorder]
) -> None:
    recorder = film()
    await recorder.show(screen.name)
    await until(lambda: grows(tmp_path))
    screen.resize(400, 300)
    await until(lambda: len(whole(tmp_path)) == 1 and grows(tmp_path))
    await recorder.close()
    assert [plays(one)["width"] for one in whole(tmp_path)] == [642, 400]


async def test_a_machine_that_goes_on_from_a_snapshot_begins_another_file(screen: Screen, tmp_path: Path) -> None:
    generation = tmp_path / "generation"
    generation.write_text("1")
    recorder = Recorder(tmp_path, LONG_S, generation)
    await recorder.show(screen.name)
    await until(lambda: grows(tmp_path))
    generation.write_text("2")
    await until(lambda: len(whole(tmp_path)) == 1 and grows(tmp_path))
    await recorder.close()
    assert len(whole(tmp_path)) == 2


async def test_while_nothing_is_to_be_shown_nothing_is_recorded(
    screen: Screen, tmp_path: Path, film: Callable[..., Recorder]
) -> None:
    recorder = film()
    await recorder.show(screen.name)
    await until(lambda: grows(tmp_path))
    await recorder.hide()
    assert writers(tmp_path) == []
    screen.show(BLUE)
    await recorder.show(screen.name)
    await recorder.hide()
    await recorder.close()
    assert all(like(colour, RED) for colour in colours(whole(tmp_path)[0]))


async def test_of_too_many_the_oldest_are_emptied_and_their_names_stay(tmp_path: Path) -> None:
    recordings = Recordings(tmp_path, most=2500)
    names = [f"2026-01-01T00-00-0{second}.000Z.mp4" for second in range(5)]
    for name in names:
        (tmp_path / name).write_bytes(b"x" * 1000)
    recordings.trim()
    assert [(one.name, one.stat().st_size) for one in recordings.whole()] == [
        *((name, 0) for name in names[:3]),
        *((name, 1000) for name in names[3:]),
    ]


async def test_without_room_for_another_form_a_recording_keeps_its_own(
    screen: Screen, tmp_path: Path, film: Callable[..., Recorder]
) -> None:
    recorder = film()
    await recorder.show(screen.name)
    await until(lambda: grows(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        await recorder.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (one,) = whole(tmp_path)
    assert probed(one)["codec_name"] == "h264"
    assert like(colours(one)[0], RED)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"\0\0\0\x10mdat", b"\0\0\0\x01mdat" + b"x" * 100, b"rubbish"])
async def test_what_is_no_recording_is_none(tmp_path: Path, content: bytes) -> None:
    recordings = Recordings(tmp_path)
    part = recordings.part(0.0)
    part.write_bytes(content)
    await recordings.finish(part)
    assert (list(recordings.parts()), list(recordings.whole())) == ([], [])
