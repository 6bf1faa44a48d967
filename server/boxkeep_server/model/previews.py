"""Previews: the host names and URLs under which what listens in sandboxes is reached."""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

MOST_PUBLIC: Final = 100
PARAMETER: Final = "boxkeep_token"
"""What the token is called in a URL: programs inside may have a parameter `token` of their own."""
_LABEL: Final = re.compile(r"([1-9][0-9]{0,4})-([a-z0-9]{32})")
_PORT: Final = re.compile(r"(:[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Place:
    """A port of a sandbox."""

    sandbox: str
    port: int


@dataclass(frozen=True, slots=True)
class PreviewUrls:
    """The form of all previews' URLs. `authority` is what stands behind the label of one place: a domain, and a port
    where that is not the scheme's own."""

    scheme: str
    authority: str

    @classmethod
    def below(cls, url: str) -> "PreviewUrls":
        """URLs whose host names end with that of `url`."""
        parts = urlsplit(url)
        return cls(parts.scheme, parts.netloc.lower())

    @property
    def secure(self) -> bool:
        """Whether browsers reach them by TLS."""
        return self.scheme == "https"

    @property
    def domain(self) -> str:
        """What host names end with."""
        return self.authority.partition(":")[0]

    def base(self, sandbox: str) -> str:
        """The URL of a sandbox's previews, with `{port}` to be filled in."""
        return f"{self.scheme}://{{port}}-{sandbox}.{self.authority}"

    def of(self, place: Place) -> str:
        """The URL of a place, without a slash at its end."""
        return self.base(place.sandbox).replace("{port}", str(place.port))

    def place(self, host: str) -> Place | None:
        """The place that a `Host` or an origin names; None where it is no preview's. Whatever port it was reached by
        does not matter: a server before us may listen on another."""
        label, found, rest = host.lower().partition(f".{self.domain}")
        named = _LABEL.fullmatch(label)
        if not found or named is None or not _PORT.fullmatch(rest) or int(named[1]) > 65535:
            return None
        return Place(named[2], int(named[1]))
