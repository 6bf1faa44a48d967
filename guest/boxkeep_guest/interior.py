"""Small files of the sandbox that the guest reads or writes at a claim: its names, and the image's environment."""

import os
import stat

ENVIRONMENT = "/etc/boxkeep/environment"
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
