"""Whose account a command runs as: the sandbox's own passwd and group files, read without the system's libraries."""

import os
from typing import NamedTuple

from boxkeep_guest.errors import Refused

_MOST = 4 * 1024 * 1024
_CACHED_MOST = 100


class Account(NamedTuple):
    """A user of the sandbox."""

    name: str
    uid: int
    gid: int
    groups: list[int]
    home: str


def _lines(path: str, fields: int) -> list[list[str]]:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib costs start-up
            text = file.read(_MOST).decode("utf-8", "surrogateescape")
    except OSError:
        return []
    rows = (line.split(":") for line in text.split("\n") if not line.startswith("#"))
    return [row for row in rows if len(row) >= fields]


def find_account(user: str | None, etc: str = "/etc") -> Account:
    """The account named or numbered `user`; None is root, which there always is.

    Raises:
        Refused: `bad_user`, there is no such user.
    """
    wanted = "0" if user is None else user
    for row in _lines(f"{etc}/passwd", 6):
        if wanted not in (row[0], row[2]) or not (row[2].isdecimal() and row[3].isdecimal()):
            continue
        uid, gid = int(row[2]), int(row[3])
        return Account(row[0], uid, gid, _groups(row[0], gid, etc), row[5] or "/")
    if wanted in ("0", "root"):
        return Account("root", 0, 0, [0], "/root")
    if wanted.isdecimal() and int(wanted) < 2**32 - 1:
        return Account(wanted, int(wanted), int(wanted), [int(wanted)], "/")
    raise Refused("bad_user", f"There is no user {wanted} in this sandbox")


class Accounts:
    """The accounts of the sandbox, read again only when their files have changed."""

    def __init__(self, etc: str = "/etc") -> None:
        self._etc = etc
        self._stamp: tuple[tuple[int, int, int] | None, ...] = ()
        self._found: dict[str | None, Account] = {}

    def find(self, user: str | None) -> Account:
        """As `find_account`."""
        stamp = tuple(_stamp(f"{self._etc}/{name}") for name in ("passwd", "group"))
        if stamp != self._stamp or len(self._found) > _CACHED_MOST:
            self._stamp, self._found = stamp, {}
        if user not in self._found:
            self._found[user] = find_account(user, self._etc)
        return self._found[user]


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - pathlib costs start-up
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _groups(name: str, gid: int, etc: str) -> list[int]:
    others = (
        int(row[2]) for row in _lines(f"{etc}/group", 4) if row[2].isdecimal() and name in row[3].strip().split(",")
    )
    return sorted({gid, *others})
