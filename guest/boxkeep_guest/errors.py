"""What the guest refuses, with the wire's codes, and how the system's errors become them.

Refused           a call is answered with an error
BadFrame          a peer broke the bounds of the wire; its connection ends
PeerGone          the connection ended or stood still for too long
"""

import errno

_BY_ERRNO = {
    errno.ENOENT: ("not_found", "does not exist"),
    errno.EEXIST: ("exists", "exists already"),
    errno.ENOTEMPTY: ("exists", "is a directory that is not empty"),
    errno.EISDIR: ("is_directory", "is a directory"),
    errno.ENOTDIR: ("not_directory", "is not a directory, or a part of its path is none"),
    errno.EACCES: ("not_permitted", "may not be used so"),
    errno.EPERM: ("not_permitted", "may not be used so"),
    errno.EROFS: ("not_permitted", "lies on a read-only file system"),
    errno.EBUSY: ("not_permitted", "is in use by the system"),
    errno.EXDEV: ("not_permitted", "lies on another file system"),
    errno.ENXIO: ("not_permitted", "is not a regular file"),
    errno.EIO: ("not_permitted", "cannot be read or written"),
    errno.ESRCH: ("not_found", "belongs to a process that is gone"),
    errno.EINVAL: ("not_permitted", "cannot be used so"),
    errno.ETXTBSY: ("not_permitted", "is a program that runs"),
    errno.ELOOP: ("symlink", "leads through too many symlinks"),
    errno.ENOSPC: ("no_space", "does not fit: no space is left"),
    errno.EDQUOT: ("no_space", "does not fit: the disk limit is reached"),
    errno.EFBIG: ("too_large", "would be too large"),
    errno.ENAMETOOLONG: ("bad_request", "has too long a name"),
    errno.EMFILE: ("limit", "cannot be opened: too many files are open"),
    errno.ENFILE: ("limit", "cannot be opened: too many files are open"),
    errno.ENOMEM: ("limit", "cannot be done: no memory is left"),
    errno.EAGAIN: ("limit", "cannot be done: too many processes"),
}


class Refused(Exception):
    """A call that is answered with an error: one of the wire's codes and a sentence."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class BadFrame(Exception):
    """The peer broke the bounds of the wire."""


class PeerGone(Exception):
    """The connection ended, or took nothing for too long."""


def refusal(error: OSError, subject: str) -> Refused:
    """The refusal that says what `error` means for `subject`, a path or a thing."""
    code, words = _BY_ERRNO.get(error.errno or 0, ("internal", f"failed: {error.strerror}"))
    return Refused(code, f"{subject} {words}")
