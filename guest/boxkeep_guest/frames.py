"""Frames of the guest wire: a codec without input or output, held to the wire's bounds."""

import json
import re
import struct
from typing import Any

from boxkeep_guest.errors import BadFrame

JSON, DATA, ERR, END = 1, 2, 3, 4
DATA_MOST = 256 * 1024
JSON_MOST = 1024 * 1024
HANDSHAKE_MOST = 16 * 1024
NESTING_MOST = 32

_HEADER = struct.Struct(">IB")
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")


def encode(kind: int, payload: bytes = b"") -> bytes:
    """One frame. The caller keeps to the bounds."""
    return _HEADER.pack(len(payload), kind) + payload


def encode_json(message: dict[str, Any]) -> bytes:
    """One JSON frame; names that are not UTF-8 travel as escaped surrogates."""
    return encode(JSON, json.dumps(message, separators=(",", ":")).encode("ascii"))


class Decoder:
    """Cuts a stream of bytes into frames; holds one unfinished frame at most."""

    def __init__(self) -> None:
        self.json_most = HANDSHAKE_MOST
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The frames that `data` completes, each as its type and payload.

        Raises:
            BadFrame: a type is unknown or a length over its bound; the stream is of no further use.
        """
        buffer = self._buffer
        buffer += data
        frames = []
        at = 0
        while len(buffer) - at >= _HEADER.size:
            length, kind = _HEADER.unpack_from(buffer, at)
            self._check(length, kind)
            end = at + _HEADER.size + length
            if end > len(buffer):
                break
            frames.append((kind, bytes(memoryview(buffer)[at + _HEADER.size : end])))
            at = end
        if at:
            del buffer[:at]
        return frames

    def _check(self, length: int, kind: int) -> None:
        if kind == JSON:
            most = self.json_most
        elif kind in (DATA, ERR):
            most = DATA_MOST
        elif kind == END:
            most = 0
        else:
            raise BadFrame(f"frame type {kind} is unknown")
        if length > most:
            raise BadFrame(f"a frame of type {kind} has {length} bytes, over {most}")


def decode_json(payload: bytes) -> dict[str, Any]:
    """The object in a JSON frame.

    Raises:
        BadFrame: it is not one UTF-8 JSON object, or nests deeper than 32.
    """
    if nesting(payload) > NESTING_MOST:
        raise BadFrame(f"JSON nests deeper than {NESTING_MOST}")
    try:
        message = json.loads(payload.decode("utf-8"))
    except ValueError as error:
        raise BadFrame("a JSON frame is not JSON") from error
    if not isinstance(message, dict):
        raise BadFrame("a JSON frame is not an object")
    return message


def nesting(payload: bytes) -> int:
    """How deep arrays and objects nest, or a larger number where counting all brackets already shows it harmless."""
    brackets = payload.count(b"{") + payload.count(b"[")
    if brackets <= NESTING_MOST:
        return brackets
    depth = deepest = 0
    for bracket in _BRACKETS.finditer(_STRINGS.sub(b"", payload)):
        depth += 1 if bracket.group() in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest
