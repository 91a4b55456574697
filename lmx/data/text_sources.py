"""Documents from files of text: whole files, between separators, or a field of each line of JSON."""

from __future__ import annotations

import gzip
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lmx.config.foreign import parse_json
from lmx.data.sources import Document, Part, Piece, group_pieces, text_field
from lmx.data.stretches import LONG, READ_ERRORS, Stretch, split_stream, stretch_of_file, stretches_of_stream


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
        return group_pieces(pieces, part_bytes)

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
        text = text_field(record, self.field, "data.field", place)
        if self.prompt_field is None:
            return Document(text.encode("utf-8", "surrogatepass"), b"", place)
        prompt = text_field(record, self.prompt_field, "data.prompt_field", place) + self.joiner
        return Document(text.encode("utf-8", "surrogatepass"), prompt.encode("utf-8", "surrogatepass"), place)
