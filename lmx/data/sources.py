"""Where documents come from: what every source of them has. One order, whatever the number of workers.

A source is cut into parts by its files' sizes alone; each part becomes one shard.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from lmx.config.foreign import quoted_keys
from lmx.data.files import find_files


class Document(NamedTuple):
    """UTF-8 text after a prompt that is never learnt (or empty), or token ids; and where it comes from.

    begins, ends  False inside a long text that comes in stretches, where no boundary token belongs
    """

    text: bytes
    prompt: bytes
    place: str
    ids: np.ndarray | None = None
    begins: bool = True
    ends: bool = True


class Piece(NamedTuple):
    """A stretch of a file: bytes, rows or records [start, stop)."""

    path: str
    start: int
    stop: int


Part = tuple[Piece, ...]


class Source(Protocol):
    """Where documents come from. Picklable, so that worker processes can read it."""

    files: tuple[str, ...]

    def parts(self, part_bytes: int) -> list[Part]:
        """The source in pieces of about `part_bytes`, in order."""
        ...

    def documents(self, part: Part) -> Iterator[Document]:
        """The documents of one part, in order."""
        ...

    def settings(self) -> dict[str, Any]:
        """All, apart from the files, that decides which documents come out."""
        ...


def limit_bytes(files: Sequence[str], max_bytes: int | None) -> tuple[str, ...]:
    """The first files, up to the one with which their sizes reach `max_bytes`."""
    if max_bytes is None:
        return tuple(files)
    kept, total = [], 0
    for path in files:
        if total >= max_bytes:
            break
        kept.append(path)
        total += os.path.getsize(path)
    return tuple(kept)


def standard_library(exclude: Sequence[str]) -> tuple[str, ...]:
    """The `.py` files of Python's own standard library on this machine."""
    return find_files(sysconfig.get_path("stdlib"), key="data", suffixes=(".py",), exclude=exclude)


def group_pieces(pieces: Sequence[tuple[Piece, int]], part_bytes: int) -> list[Part]:
    """Consecutive pieces together until they reach `part_bytes`."""
    parts: list[Part] = []
    current: list[Piece] = []
    total = 0
    for piece, size in pieces:
        if current and total + size > part_bytes:
            parts.append(tuple(current))
            current, total = [], 0
        current.append(piece)
        total += size
    return parts + ([tuple(current)] if current else [])


def document_key(document: Document) -> int:
    """A 64-bit hash of the content: equal documents fall on the same side of a split."""
    content = document.ids.tobytes() if document.ids is not None else document.prompt + b"\0" + document.text
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def file_stamps(files: Sequence[str]) -> list[tuple[str, int, int]]:
    """Path, size and time of change of each file: what a cache is known by."""
    stamps = []
    for path in files:
        stat = os.stat(path)
        stamps.append((str(Path(path).resolve()), stat.st_size, stat.st_mtime_ns))
    return stamps


def text_field(record: Any, name: str, key: str, place: str) -> str:
    """The text that a record has under `name`, a value of the setting `key`; ValueError where it has none."""
    if not isinstance(record, dict) or name not in record:
        has = quoted_keys(record) if isinstance(record, dict) else type(record).__name__
        raise ValueError(f"{key}={name} is not in {place}, which has: {has}; set {key} to one of them")
    if not isinstance(record[name], str):
        raise ValueError(f"{key}={name} is not text in {place} but {type(record[name]).__name__}")
    return record[name]
