"""What can go wrong with a guest, as one tree of errors.

GuestError
├── GuestUnreachable    no connection could be made, or it ended in the middle of a call
├── GuestTimeout        a bound of time was reached
├── GuestProtocolError  the guest broke the wire's bounds or shapes: hostile or broken inside
└── GuestRefused        the guest answered with an error, or the pool has no connection left (`limit`)
"""


class GuestError(Exception):
    """A call to a guest did not succeed."""


class GuestUnreachable(GuestError):
    """No connection, or it ended before the call did. What was asked may or may not have been done."""


class GuestTimeout(GuestError):
    """The guest did not connect, answer or go on within the time given."""


class GuestProtocolError(GuestError):
    """The guest sent what the wire does not allow."""


class GuestRefused(GuestError):
    """The guest answered with an error: `code` is one of the wire's, `message` its sentence, at most 1,000 long."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


CODES = frozenset(
    {
        "unauthorised",
        "bad_request",
        "unknown_op",
        "busy",
        "not_found",
        "exists",
        "is_directory",
        "not_directory",
        "not_permitted",
        "symlink",
        "no_space",
        "too_large",
        "limit",
        "bad_cwd",
        "bad_user",
        "not_running",
        "internal",
    }
)
"""Every code that a guest may answer with."""
