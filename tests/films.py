"""Looks into recordings as anybody would: with ffprobe and ffmpeg."""

import json
import subprocess
from pathlib import Path
from typing import Any

Colour = tuple[int, int, int]


def probed(film: Path) -> dict[str, Any]:
    """What ffprobe says of the one stream of a film, and its duration in seconds; it complains of nothing."""
    words = [
        "-v",
        "error",
        "-count_packets",
        "-count_frames",
        "-show_streams",
        "-show_format",
        "-of",
        "json",
        str(film),
    ]
    ran = subprocess.run(["ffprobe", *words], check=True, capture_output=True)
    assert ran.stderr == b"", ran.stderr
    said = json.loads(ran.stdout)
    (stream,) = said["streams"]
    return {**stream, "seconds": float(said["format"]["duration"]), "frames": int(stream["nb_read_packets"])}


def plays(film: Path) -> dict[str, Any]:
    """The same of a film that browsers play before it is loaded: H.264 that they know, its index before its frames, all
    of which can be decoded."""
    said = probed(film)
    assert (said["codec_name"], said["pix_fmt"]) == ("h264", "yuv420p")
    assert said["nb_read_frames"] == said["nb_read_packets"] != "0"
    content = film.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    assert b"moof" not in content, f"{film} has the form of a film under way"
    return said


def colours(film: Path, at: tuple[int, int] = (16, 16)) -> list[Colour]:
    """The colour of each frame of a film at one place: not in its middle, where the pointer begins."""
    place = ["-vf", f"crop=2:2:{at[0]}:{at[1]}", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    ran = subprocess.run(["ffmpeg", "-v", "error", "-i", str(film), *place, "-"], check=True, capture_output=True)
    return [
        (one[0], one[1], one[2]) for one in (ran.stdout[begin : begin + 3] for begin in range(0, len(ran.stdout), 12))
    ]


def like(one: Colour, other: Colour) -> bool:
    """Whether two colours are the same to a camera."""
    return all(abs(a - b) < 24 for a, b in zip(one, other, strict=True))


__all__ = ["Colour", "colours", "like", "plays", "probed"]
