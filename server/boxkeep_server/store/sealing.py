"""Seals what must not be read from the database alone, under a key file outside of it; and derives keys from that."""

import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
_NONCE_BYTES = 12


class SealBroken(Exception):
    """What is sealed was changed, belongs to something else, or the key file is another."""


class Seal:
    """Seals and opens bytes; `about` binds them to what they belong to."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def close(self, plain: bytes, about: str) -> bytes:
        """Sealed bytes: nonce, ciphertext and tag."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, about.encode())

    def open(self, sealed: bytes, about: str) -> bytes:
        """The plain bytes.

        Raises:
            SealBroken: they cannot be opened.
        """
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], about.encode())
        except (InvalidTag, ValueError) as error:
            raise SealBroken("What the store holds sealed cannot be opened with this key file") from error


def derived(key: bytes, about: str) -> bytes:
    """A key of `KEY_BYTES` for one purpose, made of another by HKDF-SHA256: the same each time, and none tells of the
    others."""
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=about.encode()).derive(key)


def key_file(path: Path) -> bytes:
    """The key in `path`; made, for its owner alone, where there is none. Two processes may call it at once.

    Raises:
        ValueError: the file is there and holds no key.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    if not path.exists():
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, secrets.token_bytes(KEY_BYTES))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            path.hardlink_to(fresh)
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise ValueError(f"{path} holds no key: it has {len(key)} bytes where a key has {KEY_BYTES}")
    return key
