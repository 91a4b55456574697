"""Documents -> rows of T tokens, as plans that any row can be made from alone.

A `View` is one side of a split: ranges of a token store, read as one text. Rows over it are random access:
row `i` needs no other row, so any order over any number of hosts and workers gives the same rows.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from lmx.data.shards import TokenStore
from lmx.types import Batch


class View:
    """Documents (ranges of a store) laid end to end.

    starts_M, lengths_M     where each document lies in the store, int64
    prompts_M               tokens at its start that are never learnt, or None when no document has any
    """

    def __init__(
        self, store: TokenStore, starts: np.ndarray, lengths: np.ndarray, prompts: np.ndarray | None = None
    ):
        keep = lengths > 0
        self.store = store
        self.starts = starts[keep].astype(np.int64)
        self.lengths = lengths[keep].astype(np.int64)
        self.prompts = None if prompts is None or not prompts.any() else prompts[keep].astype(np.int64)
        self.ends = np.cumsum(self.lengths)
        # Neighbours in the store are read in one go.
        joins = self.starts[1:] != self.starts[:-1] + self.lengths[:-1]
        first = np.flatnonzero(np.concatenate([[True], joins])) if len(self.starts) else np.zeros(0, int)
        self._run_store = self.starts[first]
        self._run_begin = (self.ends - self.lengths)[first]

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def read(self, begin: int, count: int) -> np.ndarray:
        """Tokens [begin, begin + count) of the text, int32."""
        run = int(np.searchsorted(self._run_begin, begin, "right")) - 1
        parts = []
        while count > 0:
            offset = begin - int(self._run_begin[run])
            stop = int(self._run_begin[run + 1]) if run + 1 < len(self._run_begin) else len(self)
            part = min(count, stop - begin)
            parts.append(self.store.read(int(self._run_store[run]) + offset, part))
            begin, count, run = begin + part, count - part, run + 1
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def weights(self, begin: int, count: int) -> np.ndarray:
        """float32: 1 for each token of [begin, begin + count), 0 for those of a prompt."""
        weights = np.ones(count, np.float32)
        if self.prompts is not None:
            first = int(np.searchsorted(self.ends, begin, "right"))
            for m in range(first, len(self.ends)):
                start = int(self.ends[m] - self.lengths[m]) - begin
                if start >= count:
                    break
                weights[max(start, 0) : max(start + int(self.prompts[m]), 0)] = 0
        return weights


class Rows(Protocol):
    """Rows of T tokens; `rows[i]` is a `Batch` of arrays [T]. `tokens` counts inputs that are not padding."""

    tokens: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Batch: ...


def _padded(array: np.ndarray, length: int) -> np.ndarray:
    if len(array) == length:
        return array
    out = np.zeros(length, array.dtype)
    out[: len(array)] = array
    return out


class StreamRows:
    """The text cut every T tokens; each row one stretch. `partial` keeps the last one, padded."""

    def __init__(self, view: View, sequence_length: int, *, partial: bool):
        self.view, self.length = view, sequence_length
        targets = max(len(view) - 1, 0)
        self._count = -(-targets // sequence_length) if partial else targets // sequence_length
        self.tokens = targets if partial else self._count * sequence_length

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Batch:
        return _stretch(self.view, index * self.length, self.length)


def _stretch(view: View, begin: int, length: int) -> Batch:
    count = min(length, len(view) - 1 - begin)
    read = view.read(begin, count + 1)
    return Batch(
        tokens=_padded(read[:-1], length),
        targets=_padded(read[1:], length),
        weights=_padded(view.weights(begin + 1, count), length),
    )


class WindowRows:
    """Stretches of T tokens that start anywhere: row `i` is a function of (seed, i)."""

    def __init__(self, view: View, sequence_length: int, *, seed: int):
        self.view, self.length, self.seed = view, sequence_length, seed
        self.starts = len(view) - sequence_length
        self.tokens = max(len(view) - 1, 0) // sequence_length * sequence_length

    def __len__(self) -> int:
        return 2**62 if self.starts > 0 else 0

    def __getitem__(self, index: int) -> Batch:
        return _stretch(self.view, mix64(self.seed, index) % self.starts, self.length)


def mix64(*values: int) -> int:
    """A 64-bit hash of whole numbers (the finaliser of splitmix64, Steele et al. 2014)."""
    mask, state = 2**64 - 1, 0
    for value in values:
        state = (state + (value & mask) + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state


class ConcatRows:
    """The text cut every T tokens, with segments and with positions that restart at each document.

    A document that goes on in the next row restarts there too. The last token of a document has weight 0,
    for its target would be another document's.
    """

    def __init__(self, view: View, sequence_length: int, *, partial: bool):
        self.view, self.length = view, sequence_length
        self._count = -(-len(view) // sequence_length) if partial else len(view) // sequence_length
        self.tokens = len(view) if partial else self._count * sequence_length

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Batch:
        view, length = self.view, self.length
        begin = index * length
        count = min(length, len(view) - begin)
        read = view.read(begin, min(count + 1, len(view) - begin))
        first = int(np.searchsorted(view.ends, begin, "right"))
        last = int(np.searchsorted(view.ends, begin + count, "left"))
        ends = np.minimum(view.ends[first : last + 1] - begin, count)
        lengths = np.diff(ends, prepend=0)
        starts = np.repeat(ends - lengths, lengths)
        weights = _padded(view.weights(begin + 1, len(read) - 1), count)
        closed = view.ends[first : last + 1] - begin
        weights[closed[closed <= count] - 1] = 0
        return Batch(
            tokens=_padded(read[:count], length),
            targets=_padded(read[1:], length),
            weights=_padded(weights, length),
            positions=_padded((np.arange(count) - starts).astype(np.int32), length),
            segments=_padded(np.repeat(np.arange(1, len(ends) + 1, dtype=np.int32), lengths), length),
        )


class Pieces(NamedTuple):
    """Stretches of documents: where each begins in the view, and how many inputs it has."""

    begins: np.ndarray
    lengths: np.ndarray


def cut_documents(lengths: np.ndarray, sequence_length: int, *, keep_rest: bool) -> Pieces:
    """Documents in pieces of at most T inputs. `keep_rest` False: only the first piece of each.

    A document of n tokens has n - 1 inputs with a target inside it.
    """
    ends = np.cumsum(lengths)
    begins = ends - lengths
    inputs = lengths - 1
    if not keep_rest:
        keep = inputs > 0
        return Pieces(begins[keep], np.minimum(inputs[keep], sequence_length))
    counts = -(-inputs // sequence_length)
    number = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    offset = number * sequence_length
    return Pieces(
        np.repeat(begins, counts) + offset, np.minimum(np.repeat(inputs, counts) - offset, sequence_length)
    )


def best_fit(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Best-fit decreasing (Ding et al. 2024, Fewer Truncations): pieces into the fewest rows it finds.

    Returns the order of the pieces, row after row, and the offset of each row in it, one more than rows.
    """
    order = np.argsort(-lengths, kind="stable")
    row_of = np.empty(len(lengths), np.int64)
    open_rows: list[list[int]] = [[] for _ in range(capacity + 1)]
    free, rows = 0, 0  # bit c of `free`: some row has exactly c places left
    for piece in order:
        length = int(lengths[piece])
        fitting = free >> length
        if fitting:
            left = length + (fitting & -fitting).bit_length() - 1
            row = open_rows[left].pop()
            if not open_rows[left]:
                free ^= 1 << left
        else:
            row, left, rows = rows, capacity, rows + 1
        row_of[piece] = row
        left -= length
        if left:
            if not open_rows[left]:
                free |= 1 << left
            open_rows[left].append(row)
    together = np.argsort(row_of, kind="stable")
    return together, np.searchsorted(row_of[together], np.arange(rows + 1))


class PackedRows:
    """Rows of whole pieces, padded at the end. Without `segments` each row holds one piece."""

    def __init__(self, view: View, sequence_length: int, *, several: bool):
        self.view, self.length, self.segments = view, sequence_length, several
        pieces = cut_documents(view.lengths, sequence_length, keep_rest=several)
        if several:
            order, self.rows = best_fit(pieces.lengths, sequence_length)
            pieces = Pieces(pieces.begins[order], pieces.lengths[order])
        else:
            self.rows = np.arange(len(pieces.lengths) + 1)
        self.pieces = pieces
        self.tokens = int(pieces.lengths.sum())

    def __len__(self) -> int:
        return len(self.rows) - 1

    def __getitem__(self, index: int) -> Batch:
        if not self.segments:
            begin, count = int(self.pieces.begins[index]), int(self.pieces.lengths[index])
            read = self.view.read(begin, count + 1)
            weights = self.view.weights(begin + 1, count)
            return Batch(*(_padded(a, self.length) for a in (read[:-1], read[1:], weights)))
        row = Batch(*(np.zeros(self.length, t) for t in (np.int32, np.int32, np.float32, np.int32, np.int32)))
        at = 0
        for segment, piece in enumerate(range(int(self.rows[index]), int(self.rows[index + 1])), 1):
            begin, count = int(self.pieces.begins[piece]), int(self.pieces.lengths[piece])
            read = self.view.read(begin, count + 1)
            here = slice(at, at + count)
            row.tokens[here], row.targets[here] = read[:-1], read[1:]
            row.weights[here] = self.view.weights(begin + 1, count)
            row.positions[here], row.segments[here] = np.arange(count), segment
            at += count
        return row


def make_rows(
    view: View, sequence_length: int, *, packing: str, windows: str, seed: int, train: bool
) -> Rows:
    """The rows of one side: for training whole rows only, for evaluation also the last, partial one."""
    if packing == "stream" and windows == "random" and train:
        return WindowRows(view, sequence_length, seed=seed)
    if packing == "stream":
        return StreamRows(view, sequence_length, partial=not train)
    if packing == "concat":
        return ConcatRows(view, sequence_length, partial=not train)
    return PackedRows(view, sequence_length, several=packing == "best_fit")
