"""The proxy that the browser goes by: its address, and whom it takes the browser for, if it demands to know."""

from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Proxy:
    """A proxy. `user` is None where it is to be asked without one."""

    scheme: str
    host: str
    port: int
    user: str | None = None
    password: str = field(default="", repr=False)

    @property
    def url(self) -> str:
        """Its URL, without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def read_proxy(url: str) -> Proxy:
    """The proxy of a URL.

    Raises:
        ValueError: it is none of a proxy.
    """
    parts = urlsplit(url)
    if parts.hostname is None or parts.port is None:
        raise ValueError("not the URL of a proxy")
    user = None if parts.username is None else unquote(parts.username)
    return Proxy(parts.scheme, parts.hostname, parts.port, user, unquote(parts.password or ""))
