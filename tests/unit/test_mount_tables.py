from pathlib import Path

from boxkeep_server.node.mountspace import Mounted, mounts


def test_odd_names_and_optional_fields_of_the_mount_table_are_read(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "29 1 0:26 / / rw,noatime shared:1 master:2 - ext4 /dev/vda rw\n"
        "30 29 0:27 / /mnt/a\\040b\\134c rw - btrfs /dev/loop0 rw,subvol=/\n"
    )
    assert mounts(table) == [Mounted("/", "ext4", "/dev/vda"), Mounted("/mnt/a b\\c", "btrfs", "/dev/loop0")]
