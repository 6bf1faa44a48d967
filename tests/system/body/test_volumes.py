"""What every volume promises of its trees: a pool, a directory, and a directory whose file system shares copies."""

import errno
import hashlib
import io
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from boxkeep_server.node import doctor_disks
from boxkeep_server.node.plain_directory import PlainDirectory, shares_copies
from boxkeep_server.node.program_streams import StreamFailed
from boxkeep_server.node.volumes import ARRIVING, DISK, HALF, CannotReceive, Volume
from tests.system.body.rooms import Room

KINDS = ("pool", "directory", "sharing directory")


@pytest.fixture
def volumes(room: Room, tmp_path: Path) -> Iterator[dict[str, Volume]]:
    pool = room.disks.volume
    shared = pool.mount / "shared"
    shared.mkdir()
    plain = PlainDirectory(tmp_path / "disks", tmp_path / "mounted")
    sharing = PlainDirectory(shared, tmp_path / "sharing")
    for one in (plain, sharing):
        one.open()
    yield {"pool": pool, "directory": plain, "sharing directory": sharing}
    for volume in (plain, sharing):
        for left in volume.mount.iterdir():
            volume.remove(left)
        volume.close()
    shared.rmdir()


@pytest.fixture(params=KINDS)
def volume(volumes: dict[str, Volume], request: pytest.FixtureRequest) -> Volume:
    return volumes[request.param]


@pytest.fixture
def place(volume: Volume) -> Iterator[Path]:
    """A directory on the volume, where a test has its trees."""
    yield from on(volume)


def on(volume: Volume) -> Iterator[Path]:
    made = volume.mount / "trees"
    made.mkdir()
    yield made
    for left in made.iterdir():
        volume.remove(left)
    made.rmdir()


def fill(tree: Path) -> None:
    """All that a machine may have on its disk and its overlay may leave there."""
    (tree / "upper/deep/er").mkdir(parents=True, mode=0o711)
    (tree / "upper/deep/er/file").write_bytes(b"content" * 1000)
    (tree / "upper/setuid").write_text("as root")
    os.chown(tree / "upper/setuid", 1000, 70000)
    (tree / "upper/setuid").chmod(0o6755)
    (tree / "upper/twin").hardlink_to(tree / "upper/setuid")
    (tree / "upper/link").symlink_to("/nowhere/at/all")
    os.lchown(tree / "upper/link", 7, 8)
    os.mkfifo(tree / "upper/pipe", 0o640)
    os.mknod(tree / "upper/gone", stat.S_IFCHR, 0)
    os.setxattr(tree / "upper/deep", "trusted.overlay.opaque", b"y")
    os.setxattr(tree / "upper/setuid", "user.mine", b"\0\1\2")
    with (tree / "upper/sparse").open("wb") as file:
        file.truncate(32 << 20)
        file.seek(16 << 20)
        file.write(b"in the middle")
    (tree / os.fsdecode(b"upper/\xff odd\n")).write_text("any bytes")
    for number, name in enumerate(("upper/deep/er", "upper/setuid", "upper/pipe")):
        os.utime(tree / name, ns=(1, 1_700_000_000_123_456_789 + number))


def seen(tree: Path) -> dict[str, Any]:
    """Each thing in a tree with what is known of it."""
    found = {}
    twins: dict[int, str] = {}
    for path in sorted(tree.rglob("*")):
        name, about = str(path.relative_to(tree)), path.lstat()
        if stat.S_ISREG(about.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            content = str(path.readlink()) if path.is_symlink() else ""
        attributes = {key: os.getxattr(path, key) for key in os.listxattr(path, follow_symlinks=False)}
        times = about.st_mtime_ns if name in ("upper/deep/er", "upper/setuid", "upper/pipe") else 0
        first = twins.setdefault(about.st_ino, name)
        found[name] = (about.st_mode, about.st_uid, about.st_gid, about.st_rdev, content, attributes, times, first)
    return found


def test_what_is_copied_and_kept_is_all_of_it_and_on_its_own(volume: Volume, place: Path) -> None:
    volume.create(place / "origin")
    fill(place / "origin")
    before = seen(place / "origin")
    volume.copy(place / "origin", place / "copy")
    volume.keep(place / "origin", place / "kept")
    assert volume.size(place / "origin") < 1 << 20
    for name in ("origin", "copy"):
        (place / name / "upper/setuid").write_text(f"changed in {name}")
        (place / name / "upper/deep/er/file").unlink()
    assert seen(place / "kept") == before
    assert before != seen(place / "copy") != seen(place / "origin")
    for name in ("origin", "copy", "kept"):
        assert volume.is_whole(place / name)
        with pytest.raises(FileExistsError):
            volume.copy(place / "origin", place / name)
    for name in ("origin", "copy", "kept", "never"):
        volume.remove(place / name)
        volume.remove(place / name)
        assert not volume.is_whole(place / name)
    assert not list(place.iterdir())


def test_what_is_shared_and_settled_leaves_its_origin_as_it_was(volume: Volume, place: Path) -> None:
    volume.create(place / "parent")
    fill(place / "parent")
    before = seen(place / "parent")
    volume.share(place / "parent", place / "filling")
    (place / "filling/upper/setuid").unlink()
    (place / "filling/upper/setuid").write_text("the child's")
    (place / "filling/more").write_text("more")
    volume.settle(place / "filling", "child")
    assert seen(place / "parent") == before
    assert (place / "child/more").read_text() == "more"
    assert sorted(path.name for path in place.iterdir()) == ["child", "parent"]


def test_what_was_left_half_is_not_there_and_goes(volume: Volume, place: Path) -> None:
    volume.create(place / "origin")
    fill(place / "origin")
    half = place / f"{HALF}copy"
    volume.create(half)
    (half / "of it").write_text("half")
    assert not volume.is_whole(place / "copy")
    volume.clear(place)
    assert [path.name for path in place.iterdir()] == ["origin"]
    volume.copy(place / "origin", place / "copy")
    assert seen(place / "copy") == seen(place / "origin")


def test_a_tree_that_is_deeper_than_any_path_goes_whole(volume: Volume, place: Path) -> None:
    volume.create(place / "deep")
    descend(place / "deep", 3000)
    volume.remove(place / "deep")
    assert not list(place.iterdir())


def descend(directory: Path, depth: int) -> None:
    """Make directories in directories, by a process that goes into each."""
    script = f"import os\nfor _ in range({depth}): os.mkdir('d'); os.chdir('d')"
    subprocess.run([sys.executable, "-c", script], cwd=directory, check=True)


@pytest.mark.parametrize("kind", ["directory", "sharing directory"])
def test_what_cannot_be_copied_is_refused_and_leaves_nothing(volumes: dict[str, Volume], kind: str) -> None:
    volume = volumes[kind]
    for place in on(volume):
        volume.create(place / "deep")
        descend(place / "deep", 3000)
        with pytest.raises(OSError, match="File name too long"):
            volume.keep(place / "deep", place / "kept")
        hasty = PlainDirectory(place, place, copy_s=0.0)
        with pytest.raises(TimeoutError, match="more on the disk than can be copied"):
            hasty.keep(place / "deep", place / "kept")
        assert [path.name for path in place.iterdir()] == ["deep"]


def test_a_copy_for_which_there_is_no_room_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "boxkeep-test", tmp_path], check=True)
    try:
        volume = PlainDirectory(tmp_path, tmp_path)
        volume.create(tmp_path / "origin")
        (tmp_path / "origin/file").write_bytes(os.urandom(3 << 20))
        assert volume.size_of_copy(tmp_path / "origin") >= 3 << 20 > volume.free_bytes()
        with pytest.raises(OSError, match="No space left on device") as full:
            volume.keep(tmp_path / "origin", tmp_path / "kept")
        assert full.value.errno == errno.ENOSPC
        assert [path.name for path in tmp_path.iterdir()] == ["origin"]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_it_is_known_whether_copies_share_space(volumes: dict[str, Volume]) -> None:
    assert not shares_copies(volumes["directory"].mount) or shares_copies(Path("/var/tmp"))
    assert shares_copies(volumes["sharing directory"].mount)
    for kind, volume in volumes.items():
        for place in on(volume):
            volume.create(place / "tree")
            (place / "tree/file").write_bytes(os.urandom(1 << 20))
            assert (volume.size_of_copy(place / "tree") == 0) == shares_copies(volume.mount), kind
        assert not [path for path in volume.mount.iterdir() if path.name.startswith(HALF)]


@pytest.mark.parametrize("receiver", KINDS)
@pytest.mark.parametrize("sender", KINDS)
async def test_a_tree_goes_from_volume_to_volume_as_a_stream(
    volumes: dict[str, Volume], sender: str, receiver: str
) -> None:
    one, other = volumes[sender], volumes[receiver]
    one.create(one.mount / "filling")
    fill(one.mount / "filling")
    one.settle(one.mount / "filling", DISK)
    target = other.mount / "target"
    target.mkdir()
    try:
        if one.form == "btrfs" != other.form:
            with pytest.raises(CannotReceive):
                async with other.receiving(one.form, target):
                    pass
            return
        async with other.receiving(one.form, target) as sink:
            async for block in one.sent(one.mount / DISK):
                await sink.write(block)
            assert not (target / DISK).exists() or one.form == "btrfs"
            await sink.end()
        assert seen(target / DISK) == seen(one.mount / DISK)
        assert other.size(target / DISK) < 1 << 20
    finally:
        one.remove(one.mount / DISK)
        for tree in (DISK, ARRIVING):
            other.remove(target / tree)
        target.rmdir()


def member(name: str, kind: bytes = tarfile.REGTYPE, linkname: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, linkname
    made.size = 5 if kind == tarfile.REGTYPE else 0
    return made


ATTACKS = {
    "upwards": [member("../../precious")],
    "absolute": [member("OUTSIDE/precious")],
    "through a link": [member("way", tarfile.SYMTYPE, "OUTSIDE"), member("way/precious")],
    "through a link upwards": [member("way", tarfile.SYMTYPE, "../.."), member("way/precious")],
    "by another name of it": [member("twin", tarfile.LNKTYPE, "OUTSIDE/precious"), member("twin")],
    "by another name upwards": [member("twin", tarfile.LNKTYPE, "../../precious"), member("twin")],
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_hostile_archive_reaches_nothing_beside_its_tree(
    volumes: dict[str, Volume], tmp_path: Path, attack: str
) -> None:
    volume = volumes["directory"]
    target = volume.mount / "target"
    target.mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    precious = (outside / "precious", volume.mount / "precious", target / "precious")
    for file in precious:
        file.write_text("as it was")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as packed:
        for one in ATTACKS[attack]:
            name, link = (text.replace("OUTSIDE", str(outside)) for text in (one.name, one.linkname))
            packed.addfile(member(name, one.type, link), io.BytesIO(b"taken"))
    try:
        async with volume.receiving("tar", target) as sink:
            await sink.write(archive.getvalue())
            await sink.end()
    except StreamFailed:
        pass  # tar refuses some of them
    assert [file.read_text() for file in precious] == ["as it was"] * 3
    assert sorted(path.name for path in outside.iterdir()) == ["precious"]
    assert {path.name for path in target.iterdir()} <= {DISK, ARRIVING, "precious"}
    for tree in (DISK, ARRIVING):
        volume.remove(target / tree)


def test_where_overlays_cannot_lie_doctor_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    parts = [tmp_path / name for name in ("lower", "upper", "work", "merged")]
    for part in parts:
        part.mkdir()
    lower, upper, work, merged = parts
    layers = f"lowerdir={lower},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "-o", layers, "boxkeep-test", merged], check=True)
    try:
        judged = doctor_disks.examine("directory", merged / "lib")[0]
        assert judged.fatal
        assert "Invalid argument" in judged.seen
        assert not list(merged.iterdir())
    finally:
        subprocess.run(["umount", merged], check=True)
    (tmp_path / "link").symlink_to(lower)
    assert not any(one.fatal for one in doctor_disks.examine("directory", tmp_path / "link" / "lib"))
    assert not list(lower.iterdir())
