"""Artifacts: files that outlive their sandbox, their keys, and where their bytes lie."""

import mimetypes
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from boxkeep_server.model.errors import Invalid, NotFound

LONGEST_KEY: Final = 1024
MOST_IN_SANDBOX: Final = 10_000
OPAQUE: Final = "application/octet-stream"
_TYPES: Final = mimetypes.MimeTypes()
_SEGMENT: Final = "artifacts"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A published file. `size` in bytes, `sha256` in hexadecimals, `created_at` in epoch ms."""

    id: str
    organisation: str
    sandbox: str
    key: str
    size: int
    content_type: str
    sha256: str
    created_at: int

    @property
    def blob(self) -> str:
        """The key of its bytes, never used for any others."""
        return f"{self.organisation}/{_SEGMENT}/{self.sandbox}/{self.id}"

    @property
    def name(self) -> str:
        """What a browser saves it as."""
        return posixpath.basename(self.key)


@dataclass(frozen=True, slots=True)
class Kept:
    """What there is of a sandbox's artifacts: how many, their bytes, and when the newest was published, epoch ms."""

    count: int
    bytes: int
    updated_at: int


class ArtifactNotFound(NotFound):
    """No such artifact for this organisation."""

    def __init__(self) -> None:
        super().__init__("Artifact not found")


def artifact_of_blob(key: str) -> str | None:
    """The id of the artifact whose bytes lie under this key; None where it is another kind of blob."""
    match key.split("/"):
        case [_, kind, _, artifact] if kind == _SEGMENT:
            return artifact
    return None


def prefix_of(capabilities: Mapping[str, Any] | None) -> str:
    """What the keys of a sandbox's artifacts begin with; empty, or with a slash at its end."""
    prefix = str(((capabilities or {}).get("storage") or {}).get("artifactPrefix") or "").strip("/")
    return f"{prefix}/" if prefix else ""


def whole_key(key: str, prefix: str) -> str:
    """A key under its prefix; one that is under it already stays as it is.

    Raises:
        Invalid: it is no key.
    """
    whole = key if key.startswith(prefix) else prefix + key
    if not whole.isprintable() or any(part in ("", ".", "..") for part in whole.split("/")):
        raise Invalid("Invalid key: must be printable, without empty, '.' or '..' parts between slashes")
    if len(whole.encode()) > LONGEST_KEY:
        raise Invalid(f"Invalid key: must have at most {LONGEST_KEY} bytes, its prefix included")
    return whole


def guessed_type(key: str) -> str:
    """The media type that a key's ending says, from a fixed table."""
    found, encoding = _TYPES.guess_type(posixpath.basename(key))
    return OPAQUE if found is None or encoding is not None else found
