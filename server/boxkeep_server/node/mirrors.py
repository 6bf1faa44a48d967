"""Finds the mirrors and proxies of this host's configuration that sandboxes could not reach without an opening."""

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from boxkeep_server.node import nft

_URL: Final = re.compile(r"""(?:https?|ftp)://[^\s"';,<>\\]+""", re.IGNORECASE)
_PORTS: Final = {"http": 80, "https": 443, "ftp": 21}
_VARIABLES: Final = re.compile(r"^(https?_proxy|all_proxy|pip_.*|npm_config_.*)$", re.IGNORECASE)
_APT: Final = ("apt/sources.list", "apt/sources.list.d/*.list", "apt/sources.list.d/*.sources")
_APT_OPTIONS: Final = ("apt/apt.conf", "apt/apt.conf.d/*")
_PIP_NPM: Final = ("pip.conf", "npmrc", "environment")
_HOME: Final = (".config/pip/pip.conf", ".pip/pip.conf", ".npmrc")
_COMMENT: Final = re.compile(r"^\s*(#|//|;).*$", re.MULTILINE)

Resolve = Callable[[str], Iterable[str]]


@dataclass(frozen=True, slots=True, order=True)
class Mirror:
    """A server that the host fetches packages from, or through."""

    host: str
    port: int


def configured(etc: Path, home: Path, environment: Mapping[str, str]) -> list[Mirror]:
    """The mirrors and proxies in apt's, pip's and npm's configuration and in the environment."""
    files = [path for pattern in (*_APT, *_APT_OPTIONS, *_PIP_NPM) for path in sorted(etc.glob(pattern))]
    files += [home / name for name in _HOME]
    texts = [_COMMENT.sub("", path.read_text(errors="replace")) for path in files if path.is_file()]
    texts += [value for name, value in environment.items() if _VARIABLES.match(name)]
    return sorted({mirror for text in texts for mirror in named_in(text)})


def named_in(text: str) -> Iterator[Mirror]:
    """The servers of the URLs in a text; a URL that is not one is passed over."""
    for url in _URL.findall(text):
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            continue
        if host:
            yield Mirror(host, port or _PORTS[parts.scheme.lower()])


def to_open(mirrors: Iterable[Mirror], attached: Iterable[str], resolve: Resolve) -> list[tuple[str, int]]:
    """Pairs of address and port of those mirrors whose addresses sandboxes are refused.

    `attached` are the networks of the host. Never opened so are loopback, as a sandbox's own is another, and where
    clouds answer for the host's identity.
    """
    never = [ipaddress.IPv4Network(network) for network in nft.METADATA]
    refused = [ipaddress.IPv4Network(network) for network in (*nft.REFUSED, *attached)]
    pairs = {(ipaddress.IPv4Address(one), mirror.port) for mirror in mirrors for one in resolve(mirror.host)}
    return sorted(
        (str(address), port)
        for address, port in pairs
        if any(address in network for network in refused)
        and not address.is_loopback
        and not any(address in network for network in never)
    )


def resolve(host: str) -> list[str]:
    """The IPv4 addresses of a name; none when it has none now."""
    try:
        return sorted({str(found[4][0]) for found in socket.getaddrinfo(host, None, socket.AF_INET)})
    except (OSError, UnicodeError):
        return []
