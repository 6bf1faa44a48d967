import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from boxkeep_server.model.ids import new_id
from boxkeep_server.model.node_api import Isolation
from boxkeep_server.node.parts import Origin
from boxkeep_server.node.tails import TAIL_BYTES
from tests.system.body.rooms import ISOLATIONS, Room, ask, call, eventually

pytestmark = pytest.mark.parametrize("opened_room", ["pool", "directory"], indirect=True, scope="package")
both = pytest.mark.parametrize("isolation", ISOLATIONS)


@both
async def test_files_on_disk_carry_the_owners_that_the_machine_sees(room: Room, isolation: Isolation) -> None:
    machine = await room.machines.start(room.spec(isolation))
    await ask(machine.address, "sh", "-c", "echo a > /root/a; echo b > /root/b; chown 1000:1001 /root/b; rm /etc/issue")
    upper = room.disks.path(machine.id) / "upper"
    owners = {name: ((upper / "root" / name).stat().st_uid, (upper / "root" / name).stat().st_gid) for name in "ab"}
    assert owners == {"a": (0, 0), "b": (1000, 1001)}
    assert (upper / "etc" / "issue").is_char_device()


@pytest.mark.parametrize(("first", "second"), [("runc", "runsc"), ("runsc", "runc")])
async def test_a_disk_moves_between_isolations(
    room: Room, directory: Path, first: Isolation, second: Isolation
) -> None:
    machine = await room.machines.start(room.spec(first))
    await ask(
        machine.address, "sh", "-c", "echo kept > /workspace/file; chown 1000:1000 /workspace/file; rm /etc/issue"
    )
    await room.machines.freeze(machine.id)
    room.disks.keep(machine.id, directory / "disk")
    await room.machines.destroy(machine.id)
    other = await room.machines.start(replace(room.spec(second), origin=Origin(directory / "disk")))
    line = (
        "cat /workspace/file; stat -c '%u %g' /workspace/file; test -e /etc/issue || echo gone; echo > /workspace/file"
    )
    assert await ask(other.address, "sh", "-c", line) == (0, "kept\n1000 1000\ngone\n")
    assert (directory / "disk/upper/workspace/file").read_text() == "kept\n"


@both
async def test_symlinks_in_the_place_of_mount_points_lead_nowhere(
    room: Room, directory: Path, isolation: Isolation
) -> None:
    machine = await room.machines.start(room.spec(isolation))
    await room.machines.destroy(machine.id)
    disk = room.disks.create(new_id(), 1 << 30)
    upper, outside = disk / "upper", directory / "outside"
    outside.mkdir()
    for name in (".boxkeep", "dev", "proc", "workspace", "etc", "tmp"):
        (upper / name).symlink_to(outside)
    room.disks.keep(disk.name, directory / "disk")
    other = await room.machines.start(replace(room.spec(isolation), origin=Origin(directory / "disk")))
    assert list(outside.iterdir()) == []
    assert await ask(other.address, "hostname") == (0, "box\n")
    _, said = await ask(other.address, "stat", "-c", "%F", "/.boxkeep", "/dev", "/proc", "/etc")
    assert set(said.splitlines()) == {"directory"}


@both
async def test_trees_in_the_place_of_our_files_may_be_as_deep_as_they_like(
    room: Room, directory: Path, isolation: Isolation
) -> None:
    disk = room.disks.create(new_id(), 1 << 30)
    for name in ("etc/resolv.conf", ".boxkeep/boot.json"):
        (disk / "upper" / name).mkdir(parents=True)
        script = "import os\nfor _ in range(1100): os.mkdir('d'); os.chdir('d')"
        subprocess.run([sys.executable, "-c", script], cwd=disk / "upper" / name, check=True)
    room.disks.keep(disk.name, directory / "disk")
    room.disks.delete(disk.name)
    machine = await room.machines.start(replace(room.spec(isolation), origin=Origin(directory / "disk")))
    assert (await ask(machine.address, "cat", "/etc/resolv.conf"))[1].startswith("nameserver ")
    room.disks.volume.remove(directory / "disk")


@both
async def test_what_unfinished_commands_wrote_last_is_told(room: Room, isolation: Isolation) -> None:
    machine = await room.machines.start(room.spec(isolation))
    running, finished, hostile = new_id(), new_id(), new_id()
    log = "/.boxkeep/log"
    line = f"""
        mkdir {log}/{running} {log}/{finished} {log}/{hostile} {log}/not-an-id
        echo '{json.dumps({"state": "running"})}' | tee {log}/{running}/record.json > {log}/{hostile}/record.json
        echo '{json.dumps({"state": "finished"})}' > {log}/{finished}/record.json
        head -c 100000 /dev/zero | tr '\\0' x > {log}/{running}/stdout; echo end >> {log}/{running}/stdout
        echo oops > {log}/{running}/stderr
        echo done > {log}/{finished}/stdout
        ln -s /etc/passwd {log}/{hostile}/stdout
        mkfifo {log}/{hostile}/stderr
    """
    assert await ask(machine.address, "sh", "-c", line) == (0, "")
    tails = await room.machines.destroy(machine.id)
    assert set(tails) == {running, hostile}
    assert len(tails[running].stdout) == TAIL_BYTES
    assert tails[running].stdout.endswith(b"xxend\n")
    assert tails[running].stderr == b"oops\n"
    assert (tails[hostile].stdout, tails[hostile].stderr) == (b"", b"")


@both
async def test_what_a_command_writes_is_on_the_disk_before_its_file_is_closed(room: Room, isolation: Isolation) -> None:
    machine = await room.machines.start(room.spec(isolation))
    line = "exec > /.boxkeep/log/open; echo said; sleep 600"
    await call(machine.address, "start", ["sh", "-c", line])
    file = room.disks.path(machine.id) / "log" / "open"

    async def said() -> bool:
        return file.exists() and file.read_bytes() == b"said\n"

    await eventually(said)


async def test_disks_are_out_of_reach_of_other_accounts(room: Room) -> None:
    mount = room.disks.volume.mount
    assert mount.stat().st_mode & 0o777 == 0o700
    assert not os.path.ismount(f"/proc/1/root{mount}")
    assert os.statvfs(mount).f_flag & (os.ST_NOSUID | os.ST_NODEV) == os.ST_NOSUID | os.ST_NODEV
    (place,) = (path for path in (room.lib / "pool.img", room.lib / "disks") if path.exists())
    assert place.stat().st_mode & 0o077 == 0
