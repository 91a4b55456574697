"""Batches that a run leaves out: which batch a step is trained on, still a function of the step alone.

Steps and batches are counted from 1, and without windows step n is trained on batch n. A run that goes back from step
`at` to step `to` goes on with the batch after that of step `at`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import grain

from lmx.data.loader import batches
from lmx.types import Batch


class Window(NamedTuple):
    """Batches `first` to `last`, left out from step `after` + 1 on.

    number     how often the run had gone back then, this time included
    at, since  the step from which it went back, and the first that was a reason to
    """

    after: int
    first: int
    last: int
    number: int
    at: int
    since: int


def batch_of(step: int, windows: Sequence[Window]) -> int:
    """The number of the batch that a step is trained on."""
    return step + sum(w.last - w.first + 1 for w in windows if w.after < step)


def gone_back(windows: Sequence[Window], *, at: int, to: int, since: int) -> tuple[Window, ...]:
    """The windows of a run that goes back from step `at` to step `to`: all that it read after `to` is left out.

    Windows that began there or later are a part of the new one.
    """
    before = tuple(w for w in windows if w.after < to)
    number = 1 + max((w.number for w in windows), default=0)
    return (*before, Window(to, batch_of(to + 1, before), batch_of(at, windows), number, at, since))


def in_force(kept: Sequence[Window], noted: Sequence[Window], step: int) -> tuple[Window, ...]:
    """The windows of a run that goes on after `step`: `kept` are those of its checkpoint, `noted` its ledger's last.

    A run that went back to this very checkpoint, and wrote none since, has its newest window in the ledger alone.
    """
    return (*(w for w in kept if w.after < step), *(w for w in noted if w.after == step))


def windows_of(plain: Any) -> tuple[Window, ...]:
    """Windows from lists, as they are written in JSON."""
    return tuple(Window(*row) for row in plain or ())


def batches_without(
    side: grain.MapDataset,
    windows: Sequence[Window],
    *,
    global_batch_size: int,
    start_step: int,
    rows: Sequence[int] | None = None,
    workers: int = 0,
) -> Iterator[Batch]:
    """`lmx.data.loader.batches` for the steps after `start_step`, without those that `windows` leave out."""
    later = [w.after for w in windows if w.after > start_step]
    for begin, end in itertools.pairwise([start_step, *later, None]):
        assert begin is not None
        stream = batches(
            side,
            global_batch_size=global_batch_size,
            start_step=batch_of(begin + 1, windows) - 1,
            rows=rows,
            workers=workers,
        )
        try:
            yield from itertools.islice(stream, None if end is None else end - begin)
        finally:
            stream.close()  # type: ignore[attr-defined]
