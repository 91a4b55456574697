"""From a side of a `Dataset` to global batches: a function of the step, whatever the hosts and workers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from lmx.data.dataset import Dataset, row
from lmx.types import Batch

PREFETCH = 8
"""Batches that are ready ahead of the step."""


def stack(rows: Sequence[Batch]) -> Batch:
    """Rows [T] -> a batch [B, T]; ValueError when some rows have segments and others have none."""
    columns = []
    for values in zip(*rows, strict=True):
        missing = sum(value is None for value in values)
        if missing not in (0, len(values)):
            raise ValueError("rows with and without segments cannot share a batch")
        columns.append(None if missing else np.stack(values))
    return Batch(*columns)


class _Chosen:
    """The same `rows` of each of a side's global batches of `size` rows, one batch after another."""

    def __init__(self, side: grain.MapDataset, size: int, rows: Sequence[int] | None):
        self.side, self.size = side, size
        self.rows = range(size) if rows is None else tuple(rows)

    def __len__(self) -> int:
        return len(self.side) // self.size * len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        step, place = divmod(index, len(self.rows))
        return row(self.side, step * self.size + self.rows[place])


def _batched(side: grain.MapDataset, size: int, rows: Sequence[int] | None) -> grain.MapDataset:
    chosen = _Chosen(side, size, rows)
    return grain.MapDataset.source(chosen).batch(len(chosen.rows), batch_fn=stack)


def _iterate(batches: grain.MapDataset, workers: int) -> Iterator[Batch]:
    # One thread: with memory-mapped tokens more of them only wait for each other.
    stream = batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=PREFETCH))
    if workers:
        from absl import flags

        if (
            not flags.FLAGS.is_parsed()
        ):  # Grain's workers read a flag; under another command line none is parsed
            flags.FLAGS.mark_as_parsed()
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    iterator = iter(stream)
    try:
        yield from iterator
    finally:
        iterator.close()


def batches(
    side: grain.MapDataset,
    *,
    global_batch_size: int,
    start_step: int = 0,
    rows: Sequence[int] | None = None,
    workers: int = 0,
) -> Iterator[Batch]:
    """Batches of steps `start_step`, `start_step` + 1, ...: of each global batch the given rows (None: all), numpy.

    Example i of the side is row i mod B of step i // B, whichever process reads it; any step is reached at once.
    `workers` 0 reads in a thread. Close the iterator when done with it.
    """
    return _iterate(_batched(side, global_batch_size, rows)[start_step:], workers)


class _Spread:
    """`count` rows of a side, evenly spread, then empty rows up to `padded`."""

    def __init__(self, side: grain.MapDataset, count: int, padded: int):
        self.side, self.count, self.padded = side, count, padded

    def __len__(self) -> int:
        return self.padded

    def __getitem__(self, index: int) -> Batch:
        if index < self.count:
            return row(self.side, index * len(self.side) // self.count)
        return Batch(*(None if a is None else np.zeros_like(a) for a in row(self.side, 0)))


def eval_batches(
    dataset: Dataset,
    *,
    batch_size: int,
    max_rows: int | None = None,
    rows: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """The evaluation side once, in batches of one shape, of each the given rows (None: all); the last is filled
    with rows of weight 0.

    `max_rows`: only so many, spread evenly over the side; None: all.
    """
    count = len(dataset.eval)
    if max_rows is not None:
        count = min(count, max_rows)
    padded = -(-count // batch_size) * batch_size
    spread = grain.MapDataset.source(_Spread(dataset.eval, count, padded))
    return _iterate(_batched(spread, batch_size, rows), 0)


def throughput(
    dataset: Dataset, *, global_batch_size: int, workers: int = 0, seconds: float = 3.0
) -> dict[str, Any]:
    """Tokens a second that the pipeline alone delivers, and the seconds until its first batch."""
    began = time.perf_counter()
    stream = batches(dataset.train, global_batch_size=global_batch_size, workers=workers)
    first = next(stream)
    ready = time.perf_counter()
    count = 0
    while time.perf_counter() - ready < seconds:
        next(stream)
        count += 1
    spent = time.perf_counter() - ready
    stream.close()  # type: ignore[attr-defined]
    return {
        "tokens_per_second": count * first.tokens.size / spent,
        "batches_per_second": count / spent,
        "seconds_to_first_batch": ready - began,
        "sequence_length": int(first.tokens.shape[1]),
        "global_batch_size": global_batch_size,
        "workers": workers,
    }
