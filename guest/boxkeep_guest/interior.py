"""Small files of the sandbox that the guest reads or writes at a claim: its names, where it is, the environment."""

import os
import stat

ENVIRONMENT = "/etc/boxkeep/environment"
HOOKS = "/etc/boxkeep/on-restore.d"
GENERATION = "/run/boxkeep/generation"
HOOKS_MOST = 50
_MOST = 256 * 1024


def name_in_files(hostname: str, etc: str = "/etc") -> None:
    """Have /etc/hostname and /etc/hosts know the machine by `hostname`; a machine so named is left as it is.

    What else a user has written into /etc/hosts stays. Where either cannot be written, the machine does without.
    """
    name = hostname.encode()
    try:
        with _Small(f"{etc}/hostname") as file:
            old = file.read().strip()
            if old == name:
                return
            file.replace(name + b"\n")
        with _Small(f"{etc}/hosts") as file:
            file.replace(renamed(file.read(), old, name))
    except OSError:
        return


def renamed(hosts: bytes, old: bytes, new: bytes) -> bytes:
    """The text of /etc/hosts with `new` where the host's own line says `old`, or in a line more."""
    lines = hosts.splitlines()
    if any(new in line.split(b"#")[0].split()[1:] for line in lines):
        return hosts
    own = b"127.0.1.1 " + new
    at = next((at for at, line in enumerate(lines) if line.split() == [b"127.0.1.1", old]), len(lines))
    lines[at : at + 1] = [own]
    return b"\n".join(lines) + b"\n"


def image_environment(path: str = ENVIRONMENT) -> dict[str, str]:
    """What the image wants in every process's environment: lines of NAME=VALUE, others are passed over."""
    try:
        with _Small(path, writable=False) as file:
            text = file.read().decode("utf-8", "surrogateescape")
    except OSError:
        return {}
    pairs = (line.partition("=") for line in text.splitlines() if not line.startswith("#") and "\0" not in line)
    return {name: value for name, equals, value in pairs if name and equals}


def name_resolver(nameserver: str, etc: str = "/etc") -> None:
    """Have names looked up at `nameserver`, as the machine that it was before did elsewhere."""
    _put(f"{etc}/resolv.conf", f"nameserver {nameserver}\noptions timeout:2 attempts:3\n")


def name_by_id(machine_id: str, etc: str = "/etc") -> None:
    """Have /etc/machine-id be the machine's own where it began as another's."""
    _put(f"{etc}/machine-id", f"{machine_id}\n", 0o444)


def write_generation(epoch: int, path: str = GENERATION) -> None:
    """Tell programs which life of the sandbox this is: another number after each resume, restore and fork.

    Lives of one sandbox are counted; a fork, which is another sandbox, begins with a number drawn at random.
    """
    try:
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)  # noqa: PTH103, PTH120 - pathlib costs start-up
    except OSError:
        return
    _put(path, f"{epoch}\n")


def hooks(directory: str = HOOKS) -> list[str]:
    """The programs to be run before anything else after a resume, restore or fork, in the order of their names."""
    try:
        names = sorted(os.listdir(directory))[:HOOKS_MOST]  # noqa: PTH208
    except OSError:
        return []
    paths = [f"{directory}/{name}" for name in names if not name.startswith(".")]
    return [path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK)]  # noqa: PTH113


def _put(path: str, text: str, mode: int = 0o644) -> None:
    """Have a file of that text in place of whatever is there; where that cannot be, the machine does without."""
    fresh = f"{path}.{os.urandom(4).hex()}"
    try:
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            os.write(file, text.encode())
        finally:
            os.close(file)
        os.replace(fresh, path)  # noqa: PTH105
    except OSError:
        return


class _Small:
    """A regular file that is not followed elsewhere, waited for, or read beyond bounds."""

    def __init__(self, path: str, writable: bool = True) -> None:
        flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._file = os.open(path, flags)

    def __enter__(self) -> "_Small":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def read(self) -> bytes:
        """All of it.

        Raises:
            OSError: it is no regular file, or larger than any such file should be.
        """
        status = os.fstat(self._file)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST:
            raise OSError("not a small regular file")
        return os.pread(self._file, _MOST, 0)

    def replace(self, content: bytes) -> None:
        """Put `content` in place of what is there."""
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, content, 0)
