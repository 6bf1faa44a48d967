"""Tries whether machines' disks can lie in a directory: `python3 -m boxkeep_server.node.disk_trial DIRECTORY`.

Prints a JSON object: why no overlay lies there (`overlay`) and none whose owners are shifted, as runc needs them
(`shifted`), each null where it does; and whether copies share what they have in common (`shares`).
"""

import json
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

from boxkeep_server.node import syscalls
from boxkeep_server.node.idmap import first_uid
from boxkeep_server.node.overlays import Body, lay_layers, mount_root, remove_body
from boxkeep_server.node.plain_directory import shares_copies


def main(directory: Path) -> None:
    """The program."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".boxkeep-trial-") as scratch:
        Path(scratch).chmod(0o755)
        found = {
            "overlay": _fault(Path(scratch) / "plain", None),
            "shifted": _fault(Path(scratch) / "shifted", first_uid(0)),
            "shares": shares_copies(Path(scratch)),
        }
    sys.stdout.write(json.dumps(found))


def _fault(place: Path, uid: int | None) -> str | None:
    """Why a root that hides a file of its image cannot be there."""
    image, disk, body = place / "image", place / "disk", Body(place / "body")
    for made in (image, disk / "upper", disk / "work"):
        made.mkdir(parents=True)
    (image / "hidden").write_text("of the image")
    try:
        lay_layers(body, image, disk, uid)
        mount_root(body, uid)
        with nullcontext() if uid is None else syscalls.creating_as(uid):
            (body.root / "hidden").unlink()
            (body.root / "made").write_text("of the machine")
    except OSError as error:
        return str(error)
    finally:
        remove_body(body)
    return None if (disk / "upper/hidden").is_char_device() else "what is removed does not stay removed"


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
