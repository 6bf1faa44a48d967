"""A machine's root: its disk laid over a shared read-only image, with owners shifted where the isolation needs it."""

from dataclasses import dataclass
from pathlib import Path

from boxkeep_server.node import syscalls
from boxkeep_server.node.idmap import mount_shifted, user_namespace
from boxkeep_server.node.mountspace import unmount_below

# A tenant's upper directory decides nothing about what else is read: no redirects, no metadata-only copies.
_OPTIONS = "redirect_dir=nofollow,metacopy=off,index=off"


@dataclass(frozen=True)
class Body:
    """Where the parts of a machine are mounted, below its directory under `<run>/machines`."""

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
    def sys(self) -> Path:
        """A sysfs of the machine's network namespace."""
        return self.directory / "sys"


def mount_body(body: Body, image: Path, disk: Path, first_uid: int | None) -> None:
    """Mount root and disk of a machine; `first_uid` None leaves owners as they are on disk."""
    for directory in (body.root, body.disk):
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    if first_uid is None:
        syscalls.mount(disk, body.disk, None, syscalls.MS_BIND)
        _overlay(image, body, syscalls.MS_NOSUID | syscalls.MS_NODEV)
        return
    lower = body.directory / "image"
    lower.mkdir(exist_ok=True)
    with user_namespace(first_uid) as shift:
        mount_shifted(image, lower, shift)
        mount_shifted(disk, body.disk, shift)
    # Overlayfs works with the ids of who mounts it, and host root has none in the shifted range.
    with syscalls.creating_as(first_uid):
        # Set-user-id files are the machine's own uids here, and sudo inside needs them to work.
        _overlay(lower, body, syscalls.MS_NODEV)
    syscalls.unmount(lower)
    lower.rmdir()


def mount_sys(body: Body, netns: Path) -> None:
    """Mount a read-only sysfs that shows the machine's own network, to be called in a thread that ends after it."""
    body.sys.mkdir(exist_ok=True)
    with netns.open("rb") as file:
        syscalls.setns(file.fileno(), syscalls.CLONE_NEWNET)
    flags = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    syscalls.mount("sysfs", body.sys, "sysfs", flags)


def unmount_body(body: Body) -> None:
    """Undo what was mounted, however far it came. May be repeated."""
    unmount_below(body.directory)


def _overlay(lower: Path, body: Body, flags: int) -> None:
    layers = f"lowerdir={lower},upperdir={body.disk}/upper,workdir={body.disk}/work"
    syscalls.mount("overlay", body.root, "overlay", flags, f"{layers},{_OPTIONS}")
