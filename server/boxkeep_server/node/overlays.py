"""A machine's root: its disk laid over a shared read-only image, with owners shifted where the isolation needs it."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from boxkeep_server.node import syscalls
from boxkeep_server.node.idmap import mount_shifted, user_namespace
from boxkeep_server.node.mountspace import unmount_below

# A tenant's upper directory decides nothing about what else is read: no redirects, no metadata-only copies.
_OPTIONS = "redirect_dir=nofollow,metacopy=off,index=off"


@dataclass(frozen=True)
class Body:
    """Where the parts of a machine are mounted: directories below `<run>/machines/<id>`."""

    directory: Path

    @property
    def root(self) -> Path:
        """The root file system."""
        return self.directory / "root"

    @property
    def disk(self) -> Path:
        """The machine's disk, with owners as the machine's processes have them on the host."""
        return self.directory / "disk"

    @property
    def image(self) -> Path:
        """The image, with owners likewise; only until the root is mounted."""
        return self.directory / "image"

    @property
    def sys(self) -> Path:
        """A sysfs of the machine's network namespace."""
        return self.directory / "sys"


def lay_layers(body: Body, image: Path, disk: Path, first_uid: int | None) -> None:
    """Mount image and disk of a machine; `first_uid` None leaves owners as they are on disk."""
    for directory in (body.root, body.disk, body.image):
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    if first_uid is None:
        for source, target in ((image, body.image), (disk, body.disk)):
            syscalls.mount(source, target, None, syscalls.MS_BIND)
        return
    with user_namespace(first_uid) as shift:
        for source, target in ((image, body.image), (disk, body.disk)):
            mount_shifted(source, target, shift)


def mount_root(body: Body, first_uid: int | None) -> None:
    """Mount the root of a machine over its layers."""
    layers = f"lowerdir={body.image},upperdir={body.disk}/upper,workdir={body.disk}/work,{_OPTIONS}"
    if first_uid is None:
        syscalls.mount("overlay", body.root, "overlay", syscalls.MS_NOSUID | syscalls.MS_NODEV, layers)
    else:
        # Overlayfs works with the ids of who mounts it, and host root has none in the shifted range.
        with syscalls.creating_as(first_uid):
            # Set-user-id files are the machine's own uids here, and sudo inside needs them to work.
            syscalls.mount("overlay", body.root, "overlay", syscalls.MS_NODEV, layers)
    syscalls.unmount(body.image)


def mount_sys(body: Body, netns: Path) -> None:
    """Mount a read-only sysfs that shows the machine's own network and carries nothing below it."""
    body.sys.mkdir(exist_ok=True)
    flags = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    with syscalls.inside(netns, syscalls.CLONE_NEWNET):
        syscalls.mount("sysfs", body.sys, "sysfs", flags)


def remove_body(body: Body) -> None:
    """Undo what was mounted and remove the directories, however far it came. May be repeated."""
    unmount_below(body.directory)
    with contextlib.suppress(FileNotFoundError):
        for entry in body.directory.iterdir():
            # Never deeper: what is not empty here is not ours to empty.
            if entry.is_dir() and not entry.is_symlink():
                entry.rmdir()
            else:
                entry.unlink()
        body.directory.rmdir()
