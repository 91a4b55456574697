"""Batches that a run leaves out: the batch of a step is a function of the step, whatever ended and went on before."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from lmx.data.windows import Window, batch_of, batches_without, gone_back, in_force, windows_of


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 6)), max_size=8))
def test_a_run_that_goes_back_reads_on_and_reads_nothing_twice(moves):
    """Each move: so many steps, then back by so many (at most to the start). What counts is read once, in order, and
    what is left out is exactly the windows.
    """
    windows, step, read, path = (), 0, [], []
    for forth, back in moves:
        found = [batch_of(n, windows) for n in range(step + 1, step + forth + 1)]
        read, path, step = [*read, *found], [*path, *found], step + forth
        to = max(step - back, 0)
        windows, step, path = gone_back(windows, at=step, to=to, since=step), to, path[:to]
        assert batch_of(to + 1, windows) == read[-1] + 1
        assert [batch_of(n, windows) for n in range(1, to + 1)] == path
    assert read == list(range(1, len(read) + 1))
    left_out = [n for w in windows for n in range(w.first, w.last + 1)]
    assert sorted([*left_out, *path]) == read
    assert [w.number for w in windows] == sorted({w.number for w in windows})
    assert windows_of([list(w) for w in windows]) == windows


def test_the_ledger_tells_of_the_window_that_no_checkpoint_has_yet():
    old, new = Window(10, 11, 14, 1, 14, 13), Window(20, 25, 29, 2, 25, 24)
    assert in_force([old], [old, new], 20) == (old, new)  # went back to 20 and was killed
    assert in_force([old, new], [old, new], 30) == (old, new)
    assert in_force([], [old, new], 10) == (old,)
    assert in_force([], [], 20) == ()  # a fork from there: its own run
    assert in_force([old], [old, new], 19) == (old,)  # from before: it will meet the spikes again


def test_the_stream_of_batches():
    import grain
    import numpy as np

    from lmx.types import Batch

    class Rows:
        def __len__(self):
            return 400

        def __getitem__(self, index):
            value = np.full(3, index, np.int32)
            return {"tokens": value, "targets": value, "weights": value.astype(np.float32)}

    side = grain.MapDataset.source(Rows()).map(lambda row: Batch(**row))
    windows = (Window(3, 4, 6, 1, 6, 5), Window(5, 9, 9, 2, 6, 6))
    for start in range(8):
        stream = batches_without(side, windows, global_batch_size=2, start_step=start)
        found = [int(batch.tokens[0, 0]) // 2 + 1 for batch in itertools.islice(stream, 4)]
        stream.close()
        assert found == [batch_of(step, windows) for step in range(start + 1, start + 5)]
