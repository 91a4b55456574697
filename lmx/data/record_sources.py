"""Documents from files of records: Parquet and ArrayRecord."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lmx.config.foreign import cut, parse_json, quoted_keys
from lmx.data.sources import Document, Part, Piece, group_pieces, text_field

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
        return group_pieces(pieces, part_bytes)

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
        return group_pieces(pieces, part_bytes)

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
                text = text_field(parse_json(record), self.field, "data.field", place)
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
