"""A request's fields, taken one by one and refused in a sentence where they are not what the wire says."""

import base64
import re
from typing import Any

from boxkeep_guest.errors import Refused

_ID = re.compile(r"[0-9a-z]{32}\Z")
_ENV_NAME = re.compile(r"[^=\0]+\Z", re.DOTALL)
_MOST = 2**62


class Fields:
    """The fields of one request; every getter raises Refused `bad_request` for what is not allowed."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._request = request

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._request.get(name) is not None

    def text(self, name: str, default: str | None = None) -> str:
        """A string without NUL."""
        value = self._request.get(name, default)
        if value is None:
            value = default
        if not isinstance(value, str) or "\0" in value:
            raise _bad(name, "a string without NUL")
        encoded(value, name)
        return value

    def optional_text(self, name: str) -> str | None:
        """A string, or None where it is null or absent."""
        return self.text(name) if self.has(name) else None

    def process_id(self, name: str = "id") -> str:
        """An id: 32 lowercase alphanumerics."""
        value = self._request.get(name)
        if not isinstance(value, str) or not _ID.match(value):
            raise _bad(name, "32 lowercase alphanumerics")
        return value

    def integer(self, name: str, default: int | None = None, least: int = 0, most: int = _MOST) -> int:
        """A whole number from `least` to `most`."""
        value = self._request.get(name)
        if value is None:
            value = default
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise _bad(name, f"a whole number from {least} to {most}")
        return value

    def optional_integer(self, name: str, least: int = 0, most: int = _MOST) -> int | None:
        """A whole number, or None where it is null or absent."""
        return self.integer(name, None, least, most) if self.has(name) else None

    def flag(self, name: str, default: bool | None = False) -> bool:
        """True or false; with a default of None it must be there."""
        value = self._request.get(name)
        if value is None:
            value = default
        if not isinstance(value, bool):
            raise _bad(name, "true or false")
        return value

    def choice(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        """One of `allowed`."""
        value = self._request.get(name, default)
        if value not in allowed:
            raise _bad(name, "one of " + ", ".join(allowed))
        return str(value)

    def texts(self, name: str) -> list[str] | None:
        """A list of strings without NUL, or None where it is null or absent."""
        value = self._request.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) and "\0" not in item for item in value):
            raise _bad(name, "a list of strings without NUL")
        for item in value:
            encoded(item, name)
        return value

    def environment(self, name: str) -> dict[str, str]:
        """A map of variables; absent is empty."""
        value = self._request.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise _bad(name, "a map of strings")
        for key, item in value.items():
            if not _ENV_NAME.match(key) or not isinstance(item, str) or "\0" in item:
                raise _bad(name, "a map of variable names to strings without NUL")
            encoded(key, name), encoded(item, name)
        return value

    def octets(self, name: str) -> bytes | None:
        """Bytes given as base64, or None where null or absent."""
        value = self._request.get(name)
        if value is None:
            return None
        try:
            return base64.b64decode(value, validate=True)
        except (ValueError, TypeError):
            raise _bad(name, "base64") from None

    def hexadecimal(self, name: str, length: int) -> bytes:
        """Exactly `length` bytes given as hexadecimal digits."""
        value = self._request.get(name)
        try:
            octets = bytes.fromhex(value)  # type: ignore[arg-type]
        except (ValueError, TypeError):
            octets = b""
        if len(octets) != length:
            raise _bad(name, f"{length} bytes in hexadecimal")
        return octets

    def path(self, name: str = "path") -> bytes:
        """An absolute path, from `<name>` or, for other bytes than UTF-8, `<name>Base64`."""
        octets = self.octets(name + "Base64") if self.has(name + "Base64") else encoded(self.text(name), name)
        assert octets is not None
        if not octets.startswith(b"/") or b"\0" in octets:
            raise _bad(name, "an absolute path")
        return octets

    def part(self, name: str) -> "Fields | None":
        """A nested object, or None where it is null or absent."""
        value = self._request.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise _bad(name, "an object")
        return Fields(value)


def encoded(text: str, name: str) -> bytes:
    """The bytes that a string of the wire stands for."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise _bad(name, "text, or bytes escaped as surrogates") from None


def _bad(name: str, expected: str) -> Refused:
    return Refused("bad_request", f"{name} must be {expected}")
