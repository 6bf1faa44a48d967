"""The URL of a webhook, taken apart once and for all, so that what is checked is what is connected to."""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

LONGEST_URL: Final = 2048
_PRINTABLE: Final = re.compile(r"[\x21-\x7e]+")
_NAME: Final = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
_ADDRESS: Final = re.compile(r"[0-9a-f:.]+")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a POST goes. `host` is a name or an address without brackets; `path` has the query with it."""

    secure: bool
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The value of the `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


def target_of(url: str) -> Target:
    """A URL as a target.

    Raises:
        ValueError: it is none that a webhook may have; the text says why.
    """
    if len(url) > LONGEST_URL:
        raise ValueError(f"must have at most {LONGEST_URL} characters")
    if not _PRINTABLE.fullmatch(url) or "\\" in url:
        raise ValueError("must be printable ASCII, everything else percent-encoded")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError("must be a URL") from error
    if parts.scheme not in ("http", "https"):
        raise ValueError("must begin with https:// or http://")
    if "@" in parts.netloc or "#" in url:
        raise ValueError("must have neither a user nor a fragment")
    if not host or not (_ADDRESS if ":" in host else _NAME).fullmatch(host) or port == 0:
        raise ValueError("must name a host, and a port that can be")
    secure = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(secure, host, port or (443 if secure else 80), path)
