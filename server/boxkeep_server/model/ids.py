"""Ids: 32 lowercase alphanumerics, drawn from the system's randomness; keys and their prefix."""

import hashlib
import re
import secrets
import string

ALPHABET = string.ascii_lowercase + string.digits
LENGTH = 32
PATTERN = re.compile(r"[a-z0-9]{32}")
KEY_PREFIX = "br_live_"
KEY_PATTERN = re.compile(r"br_live_[A-Za-z0-9]{32}")


def new_id() -> str:
    """A fresh id: 32 characters of 36, 165 bits."""
    number = secrets.randbelow(len(ALPHABET) ** LENGTH)  # one draw: one for each character would cost ten times that
    digits = []
    for _ in range(LENGTH):
        number, digit = divmod(number, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(digits)


def new_key() -> str:
    """A fresh API key, to be shown once."""
    return KEY_PREFIX + new_id()


def key_digest(key: str) -> str:
    """What is stored of a key: its SHA-256 in hex. The key carries 165 random bits, so no salt is needed."""
    return hashlib.sha256(key.encode()).hexdigest()


def is_id(text: object) -> bool:
    """Whether `text` has the form of an id."""
    return isinstance(text, str) and PATTERN.fullmatch(text) is not None


def ids_after(first: str, count: int) -> list[str]:
    """That id and more that follow from it, in all so many: the same each time, so that a repetition names the same."""
    return [first, *(hashlib.sha256(f"{first} {number}".encode()).hexdigest()[:32] for number in range(1, count))]
