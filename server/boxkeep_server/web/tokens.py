"""Signed tokens: what a browser or a person opens, bound to organisation, sandbox, purpose, key, object and expiry."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import orjson

from boxkeep_server.model.errors import Unauthenticated

LIFE_MS = 5 * 60_000
SESSION_MS = 12 * 60 * 60_000
"""How long a browser may look at a preview without asking for a new token."""
SECRET_BYTES = 32
LONGEST = 8192
NAME_NONCE = 16


class Purpose(StrEnum):
    """What a token opens, and nothing else."""

    TERMINAL = "terminal"
    DOWNLOAD = "download"
    UPLOAD = "upload"
    ARTIFACT = "artifact"
    VIEWER = "viewer"
    CDP = "cdp"
    PREVIEW = "preview"
    PREVIEW_SESSION = "preview_session"

    @property
    def life_ms(self) -> int:
        """How long a token is good."""
        return SESSION_MS if self is Purpose.PREVIEW_SESSION else LIFE_MS


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token says. `bound` names the one object that it opens: a terminal's id, a file's path."""

    organisation: str
    sandbox: str
    purpose: Purpose
    key_id: str
    bound: str
    expires_at: int


def read_secret(file: Path) -> bytes:
    """The signing key from its file, which lies outside the database.

    Raises:
        OSError: the file is not there or not readable.
        ValueError: it holds fewer than 32 bytes.
    """
    secret = file.read_bytes()
    if len(secret) < SECRET_BYTES:
        raise ValueError(f"{file} must hold at least {SECRET_BYTES} bytes")
    return secret


class Tokens:
    """Signs and reads tokens. `now_ms` gives epoch ms. That key and sandbox still live is for the caller to check."""

    def __init__(self, secret: bytes, now_ms: Callable[[], int]) -> None:
        self._secret = secret
        self._now_ms = now_ms

    def sign(self, organisation: str, sandbox: str, purpose: Purpose, key_id: str, bound: str) -> tuple[str, int]:
        """A token and when it expires, epoch ms: as long from now as its purpose allows."""
        expires_at = self._now_ms() + purpose.life_ms
        payload = _encode(orjson.dumps([organisation, sandbox, purpose, key_id, bound, expires_at]))
        return f"{payload}.{_encode(self._mac(payload))}", expires_at

    def new_name(self, sandbox: str, nonce: str) -> str:
        """A name of 32 hexadecimals for something in a sandbox, made of 16 random ones; `names` knows it again."""
        return nonce + self._seal_of_name(sandbox, nonce)

    def names(self, sandbox: str, name: str) -> bool:
        """Whether a name was given out for this sandbox: that of another's thing is like one that never was."""
        half = NAME_NONCE
        return hmac.compare_digest(name[half:].encode(), self._seal_of_name(sandbox, name[:half]).encode())

    def _seal_of_name(self, sandbox: str, nonce: str) -> str:
        about = f"boxkeep name 1\n{sandbox}\n{nonce}".encode()
        return hmac.digest(self._secret, about, hashlib.sha256).hex()[: 32 - NAME_NONCE]

    def read(self, token: str, purpose: Purpose) -> Grant:
        """What a token grants.

        Raises:
            Unauthenticated: it is not ours, is for another purpose, or has expired.
        """
        payload, _, mac = token.partition(".")
        try:
            genuine = len(token) <= LONGEST and hmac.compare_digest(_decode(mac), self._mac(payload))
        except (binascii.Error, ValueError) as error:
            raise Unauthenticated from error
        if not genuine:
            raise Unauthenticated
        organisation, sandbox, given, key_id, bound, expires_at = orjson.loads(_decode(payload))
        left_ms = expires_at - self._now_ms()
        if (
            given != purpose or not 0 < left_ms <= purpose.life_ms
        ):  # one from before the clock was set back would live on
            raise Unauthenticated
        return Grant(organisation, sandbox, Purpose(given), key_id, bound, expires_at)

    def _mac(self, payload: str) -> bytes:
        return hmac.digest(self._secret, b"boxkeep token 1\n" + payload.encode("utf-8", "replace"), hashlib.sha256)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), b"-_", validate=True)
