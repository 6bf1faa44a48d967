"""Frames of the guest wire, host side: a codec without input or output that trusts no byte of its peer."""

import json
import re
import struct
from typing import Any, NamedTuple

from boxkeep_server.guestwire.errors import GuestProtocolError

JSON, DATA, ERR, END = 1, 2, 3, 4
DATA_MOST = 256 * 1024
JSON_MOST = 1024 * 1024
HANDSHAKE_MOST = 16 * 1024
DEPTH_MOST = 32

_HEADER = struct.Struct(">IB")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")


class Frame(NamedTuple):
    """One frame: its type, `JSON`, `DATA`, `ERR` or `END`, and its payload."""

    kind: int
    payload: bytes

    def json(self) -> dict[str, Any]:
        """The object in a JSON frame.

        Raises:
            GuestProtocolError: it is no JSON frame, not an object, or nests too deep.
        """
        if self.kind != JSON:
            raise GuestProtocolError("a frame of bytes came where JSON belongs")
        return parse_object(self.payload)


def encode(kind: int, payload: bytes = b"") -> bytes:
    """One frame.

    Raises:
        ValueError: the payload is longer than the wire allows; a mistake of the caller.
    """
    if len(payload) > (JSON_MOST if kind == JSON else DATA_MOST):
        raise ValueError(f"a frame of type {kind} cannot hold {len(payload)} bytes")
    return _HEADER.pack(len(payload), kind) + payload


def encode_json(message: dict[str, Any]) -> bytes:
    """One JSON frame; bytes that are not UTF-8 travel as escaped surrogates. Raises ValueError as `encode`."""
    return encode(JSON, json.dumps(message, separators=(",", ":")).encode("ascii"))


class Decoder:
    """Cuts what a guest sends into frames; holds at most one unfinished frame."""

    def __init__(self) -> None:
        self.json_most = HANDSHAKE_MOST
        self._buffer = bytearray()

    @property
    def held(self) -> int:
        """Bytes of the unfinished frame."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes.

        Raises:
            GuestProtocolError: an unknown type, a length out of bounds; nothing further can be read.
        """
        buffer = self._buffer
        if buffer:
            buffer += data
        else:
            buffer = bytearray(data)
        frames, at, size = [], 0, len(buffer)
        while size - at >= _HEADER.size:
            length, kind = _HEADER.unpack_from(buffer, at)
            self._check(kind, length)
            end = at + _HEADER.size + length
            if end > size:
                break
            frames.append(Frame(kind, bytes(memoryview(buffer)[at + _HEADER.size : end])))
            at = end
        self._buffer = buffer[at:]
        return frames

    def _check(self, kind: int, length: int) -> None:
        if kind in (DATA, ERR):
            least, most = 1, DATA_MOST
        elif kind == JSON:
            least, most = 2, self.json_most
        elif kind == END:
            least, most = 0, 0
        else:
            raise GuestProtocolError(f"frame type {kind} is unknown")
        if not least <= length <= most:
            raise GuestProtocolError(f"a frame of type {kind} has {length} bytes, not {least} to {most}")


def parse_object(payload: bytes) -> dict[str, Any]:
    """The JSON object in `payload`, its depth checked before anything is built from it.

    Raises:
        GuestProtocolError: it is not one UTF-8 JSON object of a depth of at most 32.
    """
    if not shallow(payload):
        raise GuestProtocolError(f"JSON nests deeper than {DEPTH_MOST}")
    try:
        message = json.loads(payload.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise GuestProtocolError("a JSON frame is not JSON") from error
    if not isinstance(message, dict):
        raise GuestProtocolError("a JSON frame is not an object")
    return message


def shallow(payload: bytes) -> bool:
    """Whether arrays and objects nest at most 32 deep; brackets within strings do not count."""
    if payload.count(b"{") + payload.count(b"[") <= DEPTH_MOST:
        return True
    depth = 0
    for bracket in _BRACKET.finditer(_STRING.sub(b"", payload)):
        depth += 1 if bracket.group() in b"{[" else -1
        if depth > DEPTH_MOST:
            return False
    return True


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
