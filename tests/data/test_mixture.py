"""Mixtures: exact over every block, random access, stages by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lmx.data import Mixture
from lmx.data.loader import batches
from lmx.data.mixture import Plan, block_counts, interleave
from tests.data import byte_tokenizer, read_option

weights_of = st.lists(st.integers(1, 50), min_size=1, max_size=5)


def plan(weights, begins=(0,), block=100) -> Plan:
    return Plan([np.asarray(w, float) for w in weights], begins, block)


@settings(max_examples=60, deadline=None)
@given(weights=weights_of, first=st.integers(0, 10**12))
def test_every_block_has_exactly_its_shares(weights, first):
    block = sum(weights)
    found = plan([weights], block=block)
    start = first - first % block
    sources = [found.locate(i)[0] for i in range(start, start + block)]
    assert np.bincount(sources, minlength=len(weights)).tolist() == weights


@settings(max_examples=60, deadline=None)
@given(weights=weights_of)
def test_no_example_is_left_out_or_read_twice(weights):
    found = plan([weights], block=17 + sum(weights))
    numbers: dict[int, list[int]] = {}
    for i in range(500):
        source, number = found.locate(i)
        numbers.setdefault(source, []).append(number)
    assert all(seen == list(range(len(seen))) for seen in numbers.values())


@settings(max_examples=60, deadline=None)
@given(weights=weights_of)
def test_every_stretch_is_close_to_the_shares(weights):
    counts = np.array(weights)
    order = interleave(counts)
    for source, share in enumerate(counts / counts.sum()):
        seen = np.cumsum(order == source)
        assert np.abs(seen - share * np.arange(1, len(order) + 1)).max() < len(counts)


@settings(max_examples=60, deadline=None)
@given(weights=st.lists(st.floats(0.05, 1), min_size=1, max_size=6), block=st.integers(200, 1000))
def test_counts_are_the_nearest_whole_numbers(weights, block):
    array = np.array(weights)
    counts = block_counts(array, block)
    assert counts.sum() == block
    assert np.abs(counts - array / array.sum() * block).max() < 1


def test_a_starved_source_is_an_error():
    with pytest.raises(
        ValueError, match=r"data\.block=10 is too small: a source of weight 0\.01 .* set data\.block=100"
    ):
        block_counts(np.array([0.99, 0.01]), 10)


def test_stages_go_on_where_the_one_before_stopped():
    found = plan([[1, 1], [0, 1], [3, 1]], begins=(0, 13, 40), block=8)
    numbers: dict[int, list[int]] = {0: [], 1: []}
    sources = []
    for i in range(80):
        source, number = found.locate(i)
        sources.append(source)
        numbers[source].append(number)
    assert numbers == {s: list(range(len(n))) for s, n in numbers.items()}
    assert set(sources[13:40]) == {1}
    assert sources[40:48].count(0) == 6


# ---- whole datasets


def synthetic(rule: str, vocab: int = 256) -> dict[str, Any]:
    return read_option("data", "synthetic", {"rule": rule, "examples": 50, "eval_examples": 5})


def mixture(**changes):
    tree = {
        "sources": {"a": synthetic("walk"), "b": synthetic("zipf"), "c": synthetic("copy")},
        "weights": {"a": 0.5, "b": 0.3, "c": 0.2},
        "stages": [],
        "block": 10,
        **changes,
    }
    return Mixture.model_validate(tree)


def build(config, **more):
    return config.build(byte_tokenizer(), sequence_length=8, seed=0, **more)


def test_rows_come_from_the_planned_sources():
    dataset = build(mixture())
    assert dataset.description["shares"] == {"a": 0.5, "b": 0.3, "c": 0.2}
    assert dataset.examples_per_epoch == 100
    assert len(dataset.eval) == 15
    copies = [
        row
        for row in (dataset.train[i] for i in range(20))
        if np.array_equal(row.tokens[:4], row.targets[4:])
    ]
    assert len(copies) == 4


def test_stages_by_step_need_the_batch_size():
    config = mixture(stages=[{"from_step": 3, "weights": {"c": 1.0}}])
    with pytest.raises(
        ValueError, match=r"data\.stages counts in steps, which needs trainer\.global_batch_size"
    ):
        build(config)
    dataset = build(config, global_batch_size=4)
    stream = batches(dataset.train, global_batch_size=4, start_step=3)
    for _ in range(3):
        batch = next(stream)
        assert (batch.tokens[:, :4] == batch.targets[:, 4:]).all()
    stream.close()


def test_packed_and_plain_sources_share_batches(tmp_path):
    (tmp_path / "t.txt").write_text("\n".join(f"line {i}" for i in range(200)))
    changes = {
        "path": str(tmp_path),
        "cache_dir": str(tmp_path / "c"),
        "separator": "\n",
        "packing": "concat",
    }
    packed = read_option("data", "text", {**changes, "split.by": "document"})
    config = mixture(sources={"a": packed, "b": synthetic("walk")}, weights={"a": 1, "b": 1})
    dataset = build(config)
    batch = next(batches(dataset.train, global_batch_size=10))
    assert batch.segments.shape == (10, 8)
    assert sorted(batch.segments.max(axis=1).tolist())[:5] == [1] * 5
    assert dataset.eval[len(dataset.eval) - 1].segments.tolist() == [1] * 8


def test_what_is_only_evaluated_on_is_whole(tmp_path):
    (tmp_path / "t.txt").write_text("a line of text\n" * 20)
    text = read_option("data", "text", {"path": str(tmp_path), "cache_dir": str(tmp_path / "c")})
    dataset = build(
        mixture(sources={"a": text, "b": synthetic("walk")}, weights={"a": 1, "b": 1}), whole=True
    )
    scored = sum(int(dataset.eval[i].weights.sum()) for i in range(len(dataset.eval)))
    assert len(dataset.train) == 0
    assert scored == 15 * 20 + dataset.description["sources"]["b"]["eval"]["tokens"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": {"a": 1, "x": 1}}, "no source is called x; the sources are a, b, c"),
        ({"weights": {}}, "no source has a weight above 0"),
        ({"sources": {}}, "no source; add one with"),
        (
            {"stages": [{"from_step": 5, "weights": {"a": 1}}, {"from_step": 5, "weights": {"b": 1}}]},
            "from_step=5 follows 5",
        ),
        ({"weights": {"a": -1}}, "greater than or equal to 0"),
    ],
)
def test_contradictions(changes, message):
    with pytest.raises(ValidationError, match=message):
        mixture(**changes)
