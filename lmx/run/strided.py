"""Evaluation with overlapping windows: every token is scored once, given the rest of its window before it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from lmx.data.dataset import row
from lmx.data.loader import stack
from lmx.types import Batch


def documents(side: Any) -> Iterator[np.ndarray]:
    """The texts of an evaluation side, as ids; rows that go on where the row before ended are joined again."""
    pending: list[np.ndarray] = []
    follows = -1
    for index in range(len(side)):
        for ids, closed in _pieces(row(side, index)):
            goes_on = bool(pending) and int(ids[0]) == follows
            if pending and not goes_on:
                yield np.concatenate(pending)
                pending = []
            pending.append(ids[1:] if goes_on else ids)
            follows = -1 if closed else int(ids[-1])
    if pending:
        yield np.concatenate(pending)


def _pieces(batch: Batch) -> Iterator[tuple[np.ndarray, bool]]:
    """The documents of a row, each with its last target, and whether it ends before the row does."""
    tokens, targets, weights = (np.asarray(a) for a in (batch.tokens, batch.targets, batch.weights))
    length = len(tokens)
    segments = np.ones(length, np.int32) if batch.segments is None else np.asarray(batch.segments)
    start = 0
    while start < length:
        end = start
        while end < length and segments[end] == segments[start]:
            end += 1
        scored = np.flatnonzero(weights[start:end])
        if segments[start] != 0 and len(scored):
            last = start + int(scored[-1])
            yield np.append(tokens[start : last + 1], targets[last]), last + 1 < length
        start = end


def windows(texts: Iterator[np.ndarray], length: int, stride: int) -> Iterator[Batch]:
    """Rows of `length` tokens that begin every `stride` tokens; weights are 1 where a target is scored first."""
    place = np.arange(length, dtype=np.int32)
    for ids in texts:
        done = 0
        for begin in range(0, len(ids) - 1, stride):
            end = min(begin + length, len(ids) - 1)
            inputs, targets, weights = (
                np.zeros(length, np.int32),
                np.zeros(length, np.int32),
                np.zeros(length),
            )
            inputs[: end - begin], targets[: end - begin] = ids[begin:end], ids[begin + 1 : end + 1]
            weights[done - begin : end - begin] = 1
            # Padding is told apart: ropes that go by the length of a text must not go by it.
            real = (place < end - begin).astype(np.int32)
            yield Batch(inputs, targets, weights.astype(np.float32), place, real)
            done = end
            if end == len(ids) - 1:
                break


def batched(rows: Iterator[Batch], batch_size: int, limit: int | None) -> Iterator[Batch]:
    """Batches of one shape; the last is filled with rows of weight 0. `limit`: rows at most."""
    held: list[Batch] = []
    for index, one in enumerate(rows):
        if limit is not None and index >= limit:
            break
        held.append(one)
        if len(held) == batch_size:
            yield stack(held)
            held = []
    if held:
        empty = Batch(*(None if a is None else np.zeros_like(a) for a in held[0]))
        yield stack(held + [empty] * (batch_size - len(held)))
