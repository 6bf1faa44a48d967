"""What of this machine's configuration images are given: sources, proxies, indexes, certificates; no secrets."""

import configparser
import contextlib
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_DEBIAN_SOURCES: Final = ("sources.list", "sources.list.d/debian.sources", "sources.list.d/ubuntu.sources")
_APT_OPTIONS: Final = re.compile(
    r"^Acquire::(https?|ftp)::Proxy|^Acquire::Check-|^Acquire::Languages|^Acquire::Retries"
)
_PIP_OPTIONS: Final = ("index-url", "extra-index-url", "trusted-host")
_CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_BUNDLE: Final = Path("/etc/ssl/certs/ca-certificates.crt")
_WITH_SECRET: Final = re.compile(r"//[^/\s]*@")


@dataclass(frozen=True)
class HostMirrors:
    """Settings as they will stand in an image. `certificates` are those that this machine trusts, PEM."""

    apt_sources: tuple[Path, ...]
    apt_options: tuple[str, ...]
    pip: tuple[tuple[str, str], ...]
    npm_registry: str | None
    certificates: tuple[str, ...]

    def fingerprint(self) -> bytes:
        """What makes an image another one when it changes."""
        texts = [path.read_text(errors="replace") for path in self.apt_sources]
        return json.dumps([texts, self.apt_options, self.pip, self.npm_registry, sorted(self.certificates)]).encode()


def read_host_mirrors(etc: Path = Path("/etc"), home: Path = Path("/root")) -> HostMirrors:
    """This machine's own configuration. URLs with credentials are left out: tenants can read what is in an image."""
    return HostMirrors(
        apt_sources=tuple(_apt_sources(etc / "apt")),
        apt_options=tuple(line for line in _apt_options() if not _WITH_SECRET.search(line)),
        pip=tuple(_pip_options(etc / "pip.conf", home / ".config/pip/pip.conf", home / ".pip/pip.conf")),
        npm_registry=_npm_registry(etc / "npmrc", home / ".npmrc"),
        certificates=tuple(_CERTIFICATE.findall(_BUNDLE.read_text())) if _BUNDLE.exists() else (),
    )


def _apt_sources(apt: Path) -> list[Path]:
    own = [apt / name for name in _DEBIAN_SOURCES]
    found = [path for path in own if path.exists() and re.search(r"^(deb |Types:)", path.read_text(), re.MULTILINE)]
    return found or sorted([*(apt / "sources.list.d").glob("*.sources"), *(apt / "sources.list.d").glob("*.list")])


def _apt_options() -> list[str]:
    if shutil.which("apt-config") is None:
        return []
    dumped = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    return [line for line in dumped.splitlines() if _APT_OPTIONS.match(line) and not line.endswith('"";')]


def _pip_options(*files: Path) -> list[tuple[str, str]]:
    options: dict[str, str] = {}
    for file in files:
        parser = configparser.ConfigParser(interpolation=None)
        with contextlib.suppress(configparser.Error):
            parser.read(file)
        for name in _PIP_OPTIONS:
            words = parser.get("global", name, fallback="").split()
            kept = [word for word in words if not word.startswith("file:") and not _WITH_SECRET.search(word)]
            if kept:
                options[name] = " ".join(kept)
    return sorted(options.items())


def _npm_registry(*files: Path) -> str | None:
    found = None
    for file in files:
        if file.exists():
            for line in file.read_text(errors="replace").splitlines():
                name, _, value = line.partition("=")
                if name.strip() == "registry" and not _WITH_SECRET.search(value):
                    found = value.strip()
    return found
