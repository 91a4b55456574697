"""Documents from files: text, JSON lines, Parquet, ArrayRecord. One order, whatever the number of workers.

A source is cut into parts by its files' sizes alone; each part becomes one shard.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import mmap
import os
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from lmx.config.foreign import cut, parse_json, quoted_keys
from lmx.data.files import find_files
from lmx.data.stretches import (
    LONG,
    READ_ERRORS,
    Stretch,
    split_stream,
    stretch_of_file,
    stretches_of_stream,
)


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


def _group(pieces: Sequence[tuple[Piece, int]], part_bytes: int) -> list[Part]:
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


@contextmanager
def _opened(path: str, key: str) -> Iterator[Any]:
    """The file's bytes as a stream, unpacked; ValueError where they cannot be read."""
    try:
        with gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb") as file:
            yield file
    except READ_ERRORS as error:
        raise ValueError(f"{key}: {path} cannot be read: {error}") from None


class DelimitedFiles:
    """Files whose documents are whole files (`separator` None) or lie between separators.

    A file of more than `long` bytes without a separator is read in stretches, each in the place of a document.
    """

    key = "data.path"

    def __init__(self, files: Sequence[str], *, separator: str | None, long: int = LONG):
        self.files, self.long = tuple(files), long
        if separator == "":
            raise ValueError("data.separator is empty; give the text between documents, or null")
        self.separator = None if separator is None else separator.encode()

    def settings(self) -> dict[str, Any]:
        """Kind and separator, and the length from which files are read in stretches where one is."""
        separator = None if self.separator is None else self.separator.decode()
        in_stretches = separator is None and any(os.path.getsize(path) > self.long for path in self.files)
        return {"kind": "text", "separator": separator} | ({"long": self.long} if in_stretches else {})

    def _divisible(self, path: str) -> bool:
        # A separator that can overlap itself (two line ends) has no place where reading may start afresh.
        separator = self.separator
        if path.endswith(".gz"):
            return False
        if separator is None:
            return os.path.getsize(path) > self.long
        return not any(separator.startswith(separator[i:]) for i in range(1, len(separator)))

    def parts(self, part_bytes: int) -> list[Part]:
        """Small files together, large ones divided where their separator allows it."""
        pieces = []
        for path in self.files:
            size = os.path.getsize(path)
            step = part_bytes if size > part_bytes and self._divisible(path) else max(size, 1)
            for start in range(0, size, step):
                stop = min(start + step, size)
                pieces.append((Piece(path, start, stop), stop - start))
        return _group(pieces, part_bytes)

    def _stretches(self, piece: Piece) -> Iterator[Stretch]:
        """A file that is one document, whole or what of it is in this piece."""
        path, start, stop = piece
        if path.endswith(".gz"):
            with _opened(path, self.key) as file:
                yield from stretches_of_stream(file, self.long // 2, self.long)
        elif stop - start < os.path.getsize(path):
            yield stretch_of_file(path, start, stop)
        else:
            with _opened(path, self.key) as file:
                yield Stretch(file.read(), 0, begins=True, ends=True)

    def _texts(self, piece: Piece) -> Iterator[tuple[bytes, str]]:
        """The documents between separators."""
        path, start, stop = piece
        assert self.separator is not None
        if path.endswith(".gz"):
            with _opened(path, self.key) as file:
                for number, text in enumerate(split_stream(file, self.separator), 1):
                    yield text, f"{path}, document {number}"
        else:
            with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield from self._between(data, start, stop, path)

    def _between(self, data: mmap.mmap, start: int, stop: int, path: str) -> Iterator[tuple[bytes, str]]:
        """The documents whose first byte lies in [start, stop)."""
        separator = self.separator
        assert separator is not None
        position = start
        if start > 0:
            found = data.find(separator, max(0, start - len(separator)))
            position = len(data) if found < 0 else found + len(separator)
        while position < stop:
            found = data.find(separator, position)
            end = len(data) if found < 0 else found
            yield data[position:end], f"{path}, byte {position}"
            position = end + len(separator)

    def documents(self, part: Part) -> Iterator[Document]:
        """The texts of the part's pieces."""
        for piece in part:
            if self.separator is not None:
                yield from (Document(text, b"", place) for text, place in self._texts(piece))
                continue
            for text, start, begins, ends in self._stretches(piece):
                place = piece.path if begins and ends else f"{piece.path}, from byte {start}"
                if text or (begins and ends):
                    yield Document(text, b"", place, None, begins, ends)


class JsonLinesFiles(DelimitedFiles):
    """Files with one JSON object a line."""

    def __init__(self, files: Sequence[str], *, field: str, prompt_field: str | None, joiner: str):
        super().__init__(files, separator="\n")
        self.field, self.prompt_field, self.joiner = field, prompt_field, joiner

    def settings(self) -> dict[str, Any]:
        """Kind and fields."""
        return {"kind": "jsonl", "field": self.field, "prompt": self.prompt_field, "joiner": self.joiner}

    def documents(self, part: Part) -> Iterator[Document]:
        """The chosen field of each line, after its prompt where one is chosen."""
        for piece in part:
            for line, place in self._texts(piece):
                if line.strip():
                    yield self._document(line, place)

    def _document(self, line: bytes, place: str) -> Document:
        try:
            record = parse_json(line)
        except ValueError as error:
            raise ValueError(f"data.path: {place}: not a line of JSON: {error}") from None
        text = _field(record, self.field, "data.field", place)
        if self.prompt_field is None:
            return Document(text.encode("utf-8", "surrogatepass"), b"", place)
        prompt = _field(record, self.prompt_field, "data.prompt_field", place) + self.joiner
        return Document(text.encode("utf-8", "surrogatepass"), prompt.encode("utf-8", "surrogatepass"), place)


def _field(record: Any, name: str, key: str, place: str) -> str:
    if not isinstance(record, dict) or name not in record:
        has = quoted_keys(record) if isinstance(record, dict) else type(record).__name__
        raise ValueError(f"{key}={name} is not in {place}, which has: {has}; set {key} to one of them")
    if not isinstance(record[name], str):
        raise ValueError(f"{key}={name} is not text in {place} but {type(record[name]).__name__}")
    return record[name]


_LARGEST_GROUP = 1 << 28
"""Rows of a row group."""


class ParquetFiles:
    """A text column of Parquet files."""

    def __init__(self, files: Sequence[str], *, field: str):
        self.files, self.field = tuple(files), field
        _pyarrow()

    def settings(self) -> dict[str, Any]:
        """Kind and column."""
        return {"kind": "parquet", "field": self.field}

    def _open(self, path: str) -> Any:
        try:
            file = _pyarrow().ParquetFile(path)
        except Exception as error:  # pyarrow has its own family of errors
            raise ValueError(f"data.path: {path} is not a Parquet file: {cut(str(error), 300)}") from None
        if self.field not in file.schema_arrow.names:
            names = quoted_keys(file.schema_arrow.names)
            raise ValueError(f"data.field={self.field} is not a column of {path}; it has {names}")
        return file

    def parts(self, part_bytes: int) -> list[Part]:
        """Row groups together by their uncompressed size."""
        pieces = []
        for path in self.files:
            metadata = self._open(path).metadata
            for group in range(metadata.num_row_groups):
                size = metadata.row_group(group).total_byte_size
                pieces.append((Piece(path, group, group + 1), size))
        return _group(pieces, part_bytes)

    def documents(self, part: Part) -> Iterator[Document]:
        """The column's texts; ValueError where one is null or not text."""
        for path, start, stop in part:
            file = self._open(path)
            for group in range(start, stop):
                for row, text in enumerate(self._read(file, path, group)):
                    place = f"{path}, row group {group}, row {row}"
                    if not isinstance(text, str):
                        raise ValueError(
                            f"data.field={self.field} is {type(text).__name__}, not text, in {place}"
                        )
                    yield Document(text.encode("utf-8", "surrogatepass"), b"", place)

    def _read(self, file: Any, path: str, group: int) -> list[Any]:
        """The column's values in a row group; ValueError where they are damaged, or claim more than there can be."""
        claimed = file.metadata.row_group(group).num_rows
        if claimed > _LARGEST_GROUP:
            raise ValueError(
                f"data.path: {path}: row group {group} claims {claimed:,} rows; write smaller ones"
            )
        try:
            return file.read_row_group(group, columns=[self.field]).column(0).to_pylist()
        except Exception as error:  # pyarrow has its own family of errors
            raise ValueError(
                f"data.path: {path}: row group {group} is damaged: {cut(str(error), 300)}"
            ) from None


def _pyarrow() -> Any:
    try:
        from pyarrow import parquet
    except ImportError:
        raise ValueError("data=parquet needs pyarrow; install it with: pip install 'lmx[parquet]'") from None
    return parquet


class ArrayRecordFiles:
    """Records of ArrayRecord files: text, a field of JSON, or token ids."""

    def __init__(self, files: Sequence[str], *, record: str, field: str):
        self.files, self.record, self.field = tuple(files), record, field

    def settings(self) -> dict[str, Any]:
        """Kind, form of a record, field."""
        return {"kind": "arrayrecord", "record": self.record, "field": self.field}

    def _open(self, path: str) -> Any:
        from array_record.python.array_record_module import ArrayRecordReader

        try:
            reader = ArrayRecordReader(path)
            count = reader.num_records()
        except Exception as error:  # the reader raises what its C++ status was
            raise ValueError(f"data.path: {path} is not an ArrayRecord file: {error}") from None
        if not count:  # what it cannot read, it calls empty
            raise ValueError(f"data.path: {path} is not an ArrayRecord file, or has no records")
        return reader

    def parts(self, part_bytes: int) -> list[Part]:
        """Ranges of records, by the mean size of a file's records."""
        pieces = []
        for path in self.files:
            count, size = self._open(path).num_records(), os.path.getsize(path)
            step = max(1, count * part_bytes // max(size, 1))
            for start in range(0, count, step):
                stop = min(start + step, count)
                pieces.append((Piece(path, start, stop), size * (stop - start) // max(count, 1)))
        return _group(pieces, part_bytes)

    def documents(self, part: Part) -> Iterator[Document]:
        """One document a record."""
        for path, start, stop in part:
            reader = self._open(path)
            for first in range(start, stop, 1024):
                last = min(first + 1024, stop)
                for number, record in enumerate(reader.read(first, last), first):
                    yield self._document(record, f"{path}, record {number}")

    def _document(self, record: bytes, place: str) -> Document:
        if self.record == "text":
            return Document(record, b"", place)
        if self.record == "json":
            try:
                text = _field(parse_json(record), self.field, "data.field", place)
            except json.JSONDecodeError as error:
                raise ValueError(f"data.record=json, but {place} is not JSON: {error}") from None
            return Document(text.encode("utf-8", "surrogatepass"), b"", place)
        dtype = np.dtype("<u2" if self.record == "uint16" else "<u4")
        if len(record) % dtype.itemsize:
            raise ValueError(
                f"data.record={self.record}, but {place} has {len(record)} bytes; set data.record to "
                "what it holds"
            )
        return Document(b"", b"", place, np.frombuffer(record, dtype))


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
