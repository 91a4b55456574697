"""Synthetic tokens: functions of (seed, index), with the entropy that they claim."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.data import byte_tokenizer, data_config


def build(rule: str, seed: int = 0, **changes):
    config = data_config("synthetic", {"rule": rule, "examples": 200, "eval_examples": 10, **changes})
    return config.build(byte_tokenizer(), sequence_length=64, seed=seed)


@pytest.mark.parametrize("rule", ["walk", "zipf", "copy"])
def test_rows_are_functions_of_seed_and_index(rule):
    a, b, other = build(rule), build(rule), build(rule, seed=1)
    for i in (0, 7, 1000):
        assert np.array_equal(a.train[i].tokens, b.train[i].tokens)
        assert not np.array_equal(a.train[i].tokens, other.train[i].tokens)
    assert np.array_equal(a.eval[3].tokens, other.eval[3].tokens)
    assert (a.train[0].tokens[1:] == a.train[0].targets[:-1]).all()
    assert 0 <= a.train[0].tokens.min() <= a.train[0].tokens.max() < 256


def test_walk_has_the_entropy_it_claims():
    dataset = build("walk", branching=4)
    rows = [dataset.train[i] for i in range(200)]
    pairs = Counter((int(a), int(b)) for row in rows for a, b in zip(row.tokens, row.targets, strict=True))
    firsts = Counter(int(a) for row in rows for a in row.tokens)
    assert max(Counter(a for a, _ in pairs).values()) <= 4
    total = sum(pairs.values())
    conditional = -sum(n / total * np.log(n / firsts[a]) for (a, _), n in pairs.items())
    assert conditional == pytest.approx(dataset.description["entropy"], abs=0.05)


def test_zipf_frequencies():
    dataset = build("zipf")
    counts = np.sort(np.bincount(np.concatenate([dataset.train[i].tokens for i in range(200)])))[::-1]
    assert counts[0] / counts[1] == pytest.approx(2, rel=0.25)


def test_copy_repeats_its_first_half():
    row = build("copy").train[5]
    whole = np.append(row.tokens, row.targets[-1])
    assert np.array_equal(whole[:32], whole[33:65])
