"""Packing: nothing lost, nothing twice, no target across documents."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmx.data.packing import View, best_fit, cut_documents, make_rows
from lmx.data.shards import Shard, TokenStore, write_shard

documents = st.lists(st.integers(1, 40), min_size=1, max_size=60)


def view_of(tmp_path, lengths, prompts=None) -> View:
    """Documents whose tokens say where they are: token = position in the store, from 1 on."""
    total = sum(lengths)
    path = tmp_path / f"{abs(hash(tuple(lengths)))}.bin"
    write_shard(path, np.arange(1, total + 1, dtype="<u2"))
    store = TokenStore([Shard(str(path), 1024, total, np.dtype("<u2"))], vocab_size=None)
    lengths = np.array(lengths)
    return View(store, np.cumsum(lengths) - lengths, lengths, None if prompts is None else np.array(prompts))


def rows_of(view, length, packing, *, train=False):
    rows = make_rows(view, length, packing=packing, windows="blocks", seed=0, train=train)
    return [rows[i] for i in range(len(rows))], rows


def document_of(view: View, token: int) -> int:
    return int(np.searchsorted(view.ends, token - 1, "right"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("packing")


@settings(max_examples=60, deadline=None)
@given(lengths=documents, length=st.integers(1, 24))
def test_stream_covers_every_target_once(folder, lengths, length):
    view = view_of(folder, lengths)
    found, rows = rows_of(view, length, "stream")
    targets = [t for row in found for t, w in zip(row.targets, row.weights, strict=True) if w]
    assert targets == list(range(2, len(view) + 1))
    assert rows.tokens == len(targets)
    for row in found:
        assert row.segments is None
        assert row.positions is None
        assert np.array_equal(row.targets[row.weights > 0], row.tokens[row.weights > 0] + 1)


@settings(max_examples=80, deadline=None)
@given(lengths=documents, length=st.integers(1, 24), packing=st.sampled_from(["concat", "best_fit"]))
def test_packed_rows_keep_documents_apart(folder, lengths, length, packing):
    view = view_of(folder, lengths)
    found, rows = rows_of(view, length, packing)
    inputs = 0
    for row in found:
        inputs += int((row.segments > 0).sum())
        assert (row.weights[row.segments == 0] == 0).all()
        for segment in range(1, row.segments.max() + 1):
            here = np.flatnonzero(row.segments == segment)
            tokens = row.tokens[here]
            assert np.array_equal(here, np.arange(here[0], here[-1] + 1)), "a segment is one stretch"
            assert np.array_equal(row.positions[here], np.arange(len(here))), "positions restart"
            assert np.array_equal(np.diff(tokens), np.ones(len(here) - 1)), "text in order"
            assert len({document_of(view, t) for t in tokens}) == 1
        for token, target, weight in zip(row.tokens, row.targets, row.weights, strict=True):
            if weight:
                assert target == token + 1
                assert document_of(view, target) == document_of(view, token)
    assert rows.tokens == inputs


@settings(max_examples=80, deadline=None)
@given(lengths=documents, length=st.integers(1, 24), packing=st.sampled_from(["concat", "best_fit"]))
def test_packed_rows_learn_every_target_inside_documents_once(folder, lengths, length, packing):
    view = view_of(folder, lengths)
    found, _ = rows_of(view, length, packing)
    learnt = Counter(int(t) for row in found for t, w in zip(row.targets, row.weights, strict=True) if w)
    firsts = {int(e - n) + 1 for e, n in zip(view.ends, view.lengths, strict=True)}
    assert learnt == Counter(set(range(1, len(view) + 1)) - firsts)


@settings(max_examples=60, deadline=None)
@given(lengths=documents, length=st.integers(1, 24))
def test_one_document_a_row(folder, lengths, length):
    view = view_of(folder, lengths)
    found, _ = rows_of(view, length, "none")
    assert len(found) == sum(n > 1 for n in lengths)
    for row in found:
        assert row.tokens[0] - 1 in view.ends - view.lengths
        assert len({document_of(view, t) for t in row.targets[row.weights > 0]}) == 1


@settings(max_examples=100, deadline=None)
@given(lengths=st.lists(st.integers(1, 32), max_size=200), capacity=st.integers(32, 64))
def test_best_fit_fills_rows_within_capacity(lengths, capacity):
    sizes = np.array(lengths, np.int64)
    order, offsets = best_fit(sizes, capacity)
    assert sorted(order) == list(range(len(sizes)))
    loads = [int(sizes[order[a:b]].sum()) for a, b in pairwise(offsets)]
    assert all(0 < load <= capacity for load in loads)
    assert sum(load * 2 <= capacity for load in loads) <= 1, "two rows half empty would have been one"


def test_best_fit_is_tight_on_real_lengths():
    sizes = np.minimum(np.random.default_rng(0).geometric(1 / 200, 5000), 1024)
    _, offsets = best_fit(sizes, 1024)
    assert sizes.sum() / ((len(offsets) - 1) * 1024) > 0.99


@settings(max_examples=60, deadline=None)
@given(lengths=documents, length=st.integers(1, 24))
def test_pieces_share_only_their_border(lengths, length):
    sizes = np.array(lengths)
    begins, counts = cut_documents(sizes, length, keep_rest=True)
    assert counts.sum() == (sizes - 1).sum()
    assert (counts > 0).all()
    assert (counts <= length).all()
    assert len(set(begins.tolist())) == len(begins)


@pytest.mark.parametrize("packing", ["stream", "concat", "best_fit", "none"])
def test_prompts_are_not_learnt(folder, packing):
    lengths, prompts = [10, 5, 8, 12], [4, 0, 7, 1]
    view = view_of(folder, lengths, prompts)
    found, _ = rows_of(view, 16, packing)
    learnt = {int(t) for row in found for t, w in zip(row.targets, row.weights, strict=True) if w}
    masked = {
        int(e - n) + i for e, n, p in zip(view.ends, lengths, prompts, strict=True) for i in range(1, p + 1)
    }
    assert not learnt & masked
    firsts = (
        set() if packing == "stream" else {int(e - n) + 1 for e, n in zip(view.ends, lengths, strict=True)}
    )
    assert learnt == set(range(2, len(view) + 1)) - masked - firsts


def test_a_view_reads_across_gaps_and_shards(tmp_path):
    shards = []
    for i in range(3):
        write_shard(tmp_path / f"{i}.bin", np.arange(i * 10, i * 10 + 10, dtype="<u2"))
        shards.append(Shard(str(tmp_path / f"{i}.bin"), 1024, 10, np.dtype("<u2")))
    store = TokenStore(shards, vocab_size=30)
    view = View(store, np.array([2, 8, 25]), np.array([3, 6, 5]))
    expected = [2, 3, 4, *range(8, 14), *range(25, 30)]
    assert view.read(0, 14).tolist() == expected
    for begin in range(14):
        for count in range(1, 15 - begin):
            assert view.read(begin, count).tolist() == expected[begin : begin + count]


def test_training_leaves_out_the_partial_row(folder):
    view = view_of(folder, [33])
    assert len(rows_of(view, 16, "stream", train=True)[0]) == 2
    assert len(rows_of(view, 17, "stream", train=True)[0]) == 1
    assert len(rows_of(view, 17, "stream")[0]) == 2
