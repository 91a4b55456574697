"""Long texts in stretches, so that they are read piece by piece and tokenised in parallel."""

from __future__ import annotations

import gzip
import mmap
import re
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

LONG = 64 * 2**20
"""Bytes of a text beyond which it is read in stretches."""

_REACH = 2**20
_LINE_END = re.compile(rb"\S\n(?=\S)")


class Stretch(NamedTuple):
    """Text from byte `start` of a whole on, and whether the whole begins and ends with it."""

    text: bytes
    start: int
    begins: bool
    ends: bool


def cut_at(data: bytes | mmap.mmap, near: int, reach: int = _REACH) -> int:
    """The first place from `near` on, and not far from it, where a text may be cut.

    Just after a line end that has no other space beside it: there the usual patterns cut words too, so that a text's
    tokens are those of its stretches. Where no line ends within `reach`: between two characters.
    """
    if near <= 0 or near >= len(data):
        return min(max(near, 0), len(data))
    found = _LINE_END.search(data, max(near - 2, 0), min(near + reach, len(data)))
    if found:
        return found.end()
    while near < len(data) and data[near] & 0xC0 == 0x80:
        near += 1
    return near


def stretch_of_file(path: str, start: int, stop: int) -> Stretch:
    """The stretch of a file whose cuts lie at `start` and `stop` or soon after; empty where both are one."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        first, last = (cut_at(data, place, min(_REACH, stop - start)) for place in (start, stop))
        return Stretch(data[first:last], first, first == 0, last == len(data))


def stretches_of_stream(file: BinaryIO, size: int, long: int = LONG) -> Iterator[Stretch]:
    """A stream whole, or in stretches of about `size` bytes where it is longer than `long`."""
    buffer, start = file.read(long + 1), 0
    if len(buffer) <= long:
        yield Stretch(buffer, 0, begins=True, ends=True)
        return
    while True:
        while len(buffer) < 2 * size + 4 and (more := file.read(size)):
            buffer += more
        stop = cut_at(buffer, size, min(_REACH, size))
        yield Stretch(buffer[:stop], start, start == 0, stop == len(buffer))
        if stop == len(buffer):
            return
        buffer, start = buffer[stop:], start + stop


def split_stream(file: BinaryIO, separator: bytes, size: int = 16 * 2**20) -> Iterator[bytes]:
    """What `file.read().split(separator)` gives, read `size` bytes at a time."""
    rest = b""
    while chunk := file.read(size):
        *whole, rest = (rest + chunk).split(separator)
        yield from whole
    yield rest


READ_ERRORS = (OSError, EOFError, gzip.BadGzipFile, zlib.error)
"""What reading a damaged or forbidden file raises."""
