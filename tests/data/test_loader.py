"""Batches are a function of (seed, step): not of hosts, of workers, or of where a run stopped."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from lmx.data.loader import batches, eval_batches, stack, throughput
from lmx.sharding.rows import RowParts
from lmx.types import Batch
from tests.data import byte_tokenizer, data_config

T, B = 16, 8
PACKINGS = ["stream", "concat", "best_fit", "none"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    lines = ["".join(chr(97 + c) for c in rng.integers(0, 26, rng.integers(1, 60))) for _ in range(300)]
    (folder / "text.txt").write_text("\n".join(lines))
    return folder


def build(corpus: Path, *, seed: int = 0, **changes):
    wanted = {
        "path": str(corpus / "text.txt"),
        "separator": "\n",
        "split.by": "document",
        "cache_dir": str(corpus / "cache"),
        **changes,
    }
    return data_config("text", wanted).build(byte_tokenizer(), sequence_length=T, seed=seed)


def take(side, steps: int, **where) -> list[Batch]:
    stream = batches(side, global_batch_size=B, **where)
    found = list(islice(stream, steps))
    stream.close()
    return found


def same(a: Batch, b: Batch) -> bool:
    return all((x is None and y is None) or np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def rows_of(host: int, hosts: int, size: int = B) -> list[int]:
    return RowParts((host,), hosts).rows(size)


def joined(parts: list[Batch]) -> Batch:
    return Batch(*(None if c[0] is None else np.concatenate(c) for c in zip(*parts, strict=True)))


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("hosts", [2, 4])
def test_any_number_of_hosts_reads_the_same_global_batches(corpus, packing, hosts):
    side = build(corpus, packing=packing).train
    alone = take(side, 5)
    parts = [take(side, 5, rows=rows_of(p, hosts)) for p in range(hosts)]
    for step in range(5):
        assert same(alone[step], joined([part[step] for part in parts]))


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_an_epoch_holds_every_row_once(corpus, hosts):
    """Over B epochs, so that epochs end with a batch: each row B times, and B different orders."""
    dataset = build(corpus)
    n = dataset.examples_per_epoch
    seen: Counter[bytes] = Counter()
    for p in range(hosts):
        for batch in take(dataset.train, n, rows=rows_of(p, hosts)):
            seen.update(row.tobytes() for row in batch.tokens)
    rows = Counter(dataset.train[i].tokens.tobytes() for i in range(n))
    assert sum(rows.values()) == n
    assert seen == Counter({row: B * count for row, count in rows.items()})


def test_each_epoch_has_its_own_order(corpus):
    dataset = build(corpus)
    n = dataset.examples_per_epoch
    first = [dataset.train[i].tokens.tobytes() for i in range(n)]
    second = [dataset.train[n + i].tokens.tobytes() for i in range(n)]
    assert sorted(first) == sorted(second)
    assert first != second


@pytest.mark.parametrize("packing", PACKINGS)
def test_starting_anywhere_equals_having_read_so_far(corpus, packing):
    side = build(corpus, packing=packing).train
    whole = take(side, 60)
    for start in (1, 7, 37, 59):
        for a, b in zip(whole[start:], take(side, 60 - start, start_step=start), strict=True):
            assert same(a, b)


def test_starting_late_is_immediate_and_endless(corpus):
    side = build(corpus).train
    (late,) = take(side, 1, start_step=10**9)
    assert late.tokens.shape == (B, T)


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_change_nothing(corpus, workers):
    side = build(corpus, packing="best_fit").train
    for a, b in zip(take(side, 12, start_step=3), take(side, 12, start_step=3, workers=workers), strict=True):
        assert same(a, b)


def test_another_seed_is_another_order(corpus):
    a, b = take(build(corpus, seed=0).train, 1)[0], take(build(corpus, seed=1).train, 1)[0]
    assert not np.array_equal(a.tokens, b.tokens)
    assert same(a, take(build(corpus, seed=0).train, 1)[0])


def test_random_windows_are_contiguous_and_differ(corpus):
    dataset = build(corpus, windows="random", **{"split.by": "tail", "document_boundary": "none"})
    text = (corpus / "text.txt").read_bytes().replace(b"\n", b"")
    first = dataset.train[0]
    assert bytes(first.tokens.tolist()) in text
    assert np.array_equal(first.tokens[1:], first.targets[:-1])
    assert len({dataset.train[i].tokens.tobytes() for i in range(200)}) > 190
    assert same(
        dataset.train[12345],
        build(corpus, windows="random", **{"split.by": "tail", "document_boundary": "none"}).train[12345],
    )


def test_any_rows_of_each_global_batch_are_read(corpus):
    side = build(corpus).train
    rows = RowParts((0, 3), 4).rows(B)
    assert rows == [0, 1, 6, 7]
    for workers in (0, 1):
        mine = take(side, 4, rows=rows, start_step=2, workers=workers)
        for part, whole in zip(mine, take(side, 4, start_step=2), strict=True):
            assert same(part, Batch(*(None if a is None else a[rows] for a in whole)))


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("hosts", [1, 2])
def test_evaluation_reads_every_row_once_in_one_shape(corpus, packing, hosts):
    dataset = build(corpus, packing=packing)
    parts = [list(eval_batches(dataset, batch_size=4, rows=rows_of(p, hosts, size=4))) for p in range(hosts)]
    whole = [joined([part[i] for part in parts]) for i in range(len(parts[0]))]
    assert {b.tokens.shape for b in whole} == {(4, T)}
    rows = joined(whole)
    n = len(dataset.eval)
    expected = stack([dataset.eval[i] for i in range(n)])
    assert same(expected, Batch(*(None if a is None else a[:n] for a in rows)))
    assert not rows.weights[n:].any()
    assert len(rows.weights) - n < 4


def test_fewer_evaluation_batches_spread_over_the_side(corpus):
    dataset = build(corpus)
    few = list(eval_batches(dataset, batch_size=4, max_rows=8))
    assert len(few) == 2
    picks = joined(few).tokens
    n = len(dataset.eval)
    assert n > 8
    assert np.array_equal(picks[-1], dataset.eval[7 * n // 8].tokens)


def test_as_many_rows_as_asked_and_no_more(corpus):
    few = list(eval_batches(build(corpus), batch_size=4, max_rows=5))
    assert [(batch.weights.sum(1) > 0).sum() for batch in few] == [4, 1]


def test_rows_with_and_without_segments_are_not_mixed():
    plain = Batch(np.zeros(2), np.zeros(2), np.ones(2))
    with pytest.raises(ValueError, match="cannot share a batch"):
        stack([plain, plain._replace(segments=np.ones(2), positions=np.zeros(2))])


def test_throughput_reports_tokens_a_second(corpus):
    found = throughput(build(corpus), global_batch_size=B, seconds=0.2)
    assert found["tokens_per_second"] == pytest.approx(found["batches_per_second"] * B * T)
    assert found["batches_per_second"] > 10
