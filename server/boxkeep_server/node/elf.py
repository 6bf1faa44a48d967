"""Reads from an ELF file what it needs to run: its program interpreter and its shared libraries."""

import struct
from pathlib import Path
from typing import NamedTuple

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB = 1, 5


class _Segment(NamedTuple):
    kind: int
    offset: int
    address: int
    size: int


class NotElf(ValueError):
    """The file is no little-endian 64-bit ELF file."""


def program_interpreter(path: Path) -> str:
    """The program interpreter (dynamic loader) that the file names. Raises NotElf."""
    data = path.read_bytes()
    for segment in _segments(data):
        if segment.kind == _PT_INTERP:
            return data[segment.offset : segment.offset + segment.size].rstrip(b"\0").decode()
    raise NotElf(f"{path} names no program interpreter")


def needed_libraries(path: Path) -> list[str]:
    """The names of the libraries that the file needs, in its order. Raises NotElf."""
    data = path.read_bytes()
    segments = _segments(data)
    dynamic = next((segment for segment in segments if segment.kind == _PT_DYNAMIC), None)
    if dynamic is None:
        return []
    entries = [struct.unpack_from("<qQ", data, dynamic.offset + at) for at in range(0, dynamic.size - 15, 16)]
    strings = next((value for tag, value in entries if tag == _DT_STRTAB), None)
    if strings is None:
        return []
    start = _file_offset(segments, strings)
    return [_text(data, start + value) for tag, value in entries if tag == _DT_NEEDED]


def _segments(data: bytes) -> list[_Segment]:
    if data[:6] != b"\x7fELF\x02\x01":
        raise NotElf("not a little-endian 64-bit ELF file")
    table, entry_size, count = *struct.unpack_from("<Q", data, 32), *struct.unpack_from("<HH", data, 54)
    found = []
    for index in range(count):
        kind, _, offset, address, _, size = struct.unpack_from("<IIQQQQ", data, table + index * entry_size)
        found.append(_Segment(kind, offset, address, size))
    return found


def _file_offset(segments: list[_Segment], address: int) -> int:
    for segment in segments:
        if segment.kind == _PT_LOAD and segment.address <= address < segment.address + segment.size:
            return address - segment.address + segment.offset
    raise NotElf("an address lies in no segment")


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()
