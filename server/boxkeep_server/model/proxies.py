"""The proxy that a browser goes by: which URLs are of one, and what of them may be shown."""

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

_PLAIN: Final = ("http", "https", "socks4", "socks5")
_BY_PASSWORD: Final = ("http", "socks5")
_LONGEST: Final = 255
_FORM: Final = (
    "must be the URL of a proxy, such as http://user:password@proxy.example.com:3128 or socks5://192.0.2.7:1080"
)


class BadProxy(ValueError):
    """The URL is none of a proxy that a browser can go by; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy as a client names it. `shown` is its URL without user and password, `secret` the whole, where it has
    them."""

    shown: str
    secret: str | None = field(repr=False)


def read_proxy(url: str) -> Proxy:
    """The proxy of a URL.

    Raises:
        BadProxy
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadProxy(_FORM) from error
    if not url.isprintable() or parts.scheme not in _PLAIN or not parts.hostname or not port:
        raise BadProxy(_FORM)
    if parts.path not in ("", "/") or parts.query or parts.fragment or any(one in parts.netloc for one in ' ,;\\<>"'):
        raise BadProxy(_FORM)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    shown = f"{parts.scheme}://{host}:{port}"
    if parts.username is None:
        return Proxy(shown, None)
    _check_credentials(parts)
    return Proxy(shown, f"{parts.scheme}://{parts.netloc}")


def _check_credentials(parts: SplitResult) -> None:
    if parts.scheme not in _BY_PASSWORD:
        raise BadProxy(f"must be of {' or '.join(f'{one}://' for one in _BY_PASSWORD)} to have a user and a password")
    given = unquote(parts.username or ""), unquote(parts.password or "")
    if not given[0] or ":" in given[0] or not all(one.isprintable() for one in given):
        raise BadProxy("must have a user without colon, and nothing that cannot be printed in its password")
    if max(len(one.encode()) for one in given) > _LONGEST:
        raise BadProxy(f"must have a user and a password of at most {_LONGEST} bytes each")
