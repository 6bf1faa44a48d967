"""Under gVisors that fail to read the attributes of symlinks, answer as file systems without attributes do."""

import errno
import os
import struct

from boxkeep_guest.pid1 import prctl

_SET_SECCOMP, _BY_FILTER = 22, 2
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4
_CALLS = {"x86_64": (0xC000003E, 192), "aarch64": (0xC00000B7, 9)}
"""The kernel's mark of each architecture, and its number of lgetxattr."""


def work_around(directory: str) -> bool:
    """Where reading attributes of a symlink in `directory` fails with EBADF, have lgetxattr say ENOTSUP.

    Whether it does. `ls -l` and whatever else asks symlinks for labels takes the former for an error and the latter for
    "none". The filter is for this process and all that it starts from now on.
    """
    call = _CALLS.get(os.uname().machine)
    return call is not None and _fails(directory) and _install(*call)


def _fails(directory: str) -> bool:
    link = f"{directory}/.link"
    try:
        os.symlink("nowhere", link)  # noqa: PTH211
        try:
            os.getxattr(link, "security.selinux", follow_symlinks=False)
        finally:
            os.unlink(link)  # noqa: PTH108 - pathlib costs start-up
    except OSError as error:
        return error.errno == errno.EBADF
    return False


def _install(architecture: int, number: int) -> bool:
    import array  # noqa: PLC0415 - for machines that need it alone

    program = array.array(
        "B",
        b"".join(
            struct.pack("=HBBI", *instruction)
            for instruction in (
                (_LOAD, 0, 0, _ARCHITECTURE_AT),
                (_EQUAL, 0, 3, architecture),
                (_LOAD, 0, 0, _NUMBER_AT),
                (_EQUAL, 0, 1, number),
                (_RETURN, 0, 0, _FAIL | errno.ENOTSUP),
                (_RETURN, 0, 0, _ALLOW),
            )
        ),
    )
    address, size = program.buffer_info()
    return prctl(_SET_SECCOMP, _BY_FILTER, struct.pack("@HP", size // 8, address))
