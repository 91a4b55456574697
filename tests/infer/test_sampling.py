"""Sampling rules against references in numpy, and the distribution of what is drawn."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmx.infer.requests import Request, controls_of
from lmx.infer.sampling import choose, keep_min_p, keep_top_k, keep_top_p, penalised

V = 13


def logits_of(seed, rows=3, width=V):
    return np.random.default_rng(seed).normal(0, 2, (rows, width)).astype(np.float32)


def kept(x):
    return np.isfinite(np.asarray(x))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, V))
def test_top_k_keeps_the_k_largest(seed, k):
    x = logits_of(seed)
    got = kept(keep_top_k(jnp.asarray(x), jnp.asarray([k, 0, 1], jnp.int32)))
    assert got[0].sum() == k
    assert set(np.flatnonzero(got[0])) == set(np.argsort(-x[0])[:k])
    assert got[1].all()
    assert np.flatnonzero(got[2]).tolist() == [x[2].argmax()]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.0, 0.999))
def test_top_p_keeps_the_smallest_set_of_that_probability(seed, p):
    x = logits_of(seed)
    got = kept(keep_top_p(jnp.asarray(x), jnp.asarray([p, 1.0, 0.5], jnp.float32)))
    for row, share in ((0, p), (2, 0.5)):
        order = np.argsort(-x[row])
        probability = np.exp(x[row] - x[row].max())
        probability = (probability / probability.sum())[order]
        before = np.cumsum(probability) - probability
        if np.abs(np.cumsum(probability) - share).min() < 1e-5:
            continue
        n = max(1, int((before < share).sum()))
        assert set(np.flatnonzero(got[row])) == set(order[:n])
    assert got[1].all()


def test_min_p_is_a_part_of_the_largest_probability():
    x = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], np.float32))
    assert kept(keep_min_p(jnp.asarray(x), jnp.asarray([0.29])))[0].tolist() == [True, True, True, False]
    assert kept(keep_min_p(jnp.asarray(x), jnp.asarray([0.0])))[0].all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.5, 2), st.floats(-1, 1), st.floats(-1, 1))
def test_penalties_equal_their_definition(seed, repetition, presence, frequency):
    rng = np.random.default_rng(seed)
    x, tokens = logits_of(seed, 2), rng.integers(0, V, (2, 10)).astype(np.int32)
    prompts, lengths = [3, 5], [7, 5]
    knobs = {"repetition_penalty": repetition, "presence_penalty": presence, "frequency_penalty": frequency}
    asked = [Request(tokens=[0] * n, max_new_tokens=1, **knobs) for n in prompts]
    got = penalised(
        jnp.asarray(x), controls_of(asked, 2, vocab_size=V), jnp.asarray(tokens), jnp.asarray(lengths)
    )
    for row in range(2):
        expected = x[row].astype(np.float64)
        for token in set(tokens[row, : lengths[row]].tolist()):
            v = expected[token]
            expected[token] = v / repetition if v > 0 else v * repetition
        for token in tokens[row, prompts[row] : lengths[row]]:
            expected[token] -= frequency
        for token in set(tokens[row, prompts[row] : lengths[row]].tolist()):
            expected[token] -= presence
        np.testing.assert_allclose(got[row], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("knobs", [{}, {"top_k": 3}, {"top_p": 0.7}, {"min_p": 0.2}])
def test_draws_have_the_distribution_that_the_knobs_describe(knobs):
    rows, temperature = 4096, 0.7
    x = logits_of(5, 1, 8)
    asked = [
        Request(tokens=[1], max_new_tokens=1, temperature=temperature, seed=i, **knobs) for i in range(rows)
    ]
    controls = controls_of(asked, rows, vocab_size=8)
    wide = jnp.broadcast_to(jnp.asarray(x), (rows, 8))
    draw = jax.jit(
        lambda y: (
            choose(y, controls, tokens_BS=jnp.zeros((rows, 4), jnp.int32), lengths_B=jnp.ones(rows, int)).ids
        )
    )
    found = np.bincount(np.asarray(draw(wide)), minlength=8) / rows
    p = np.exp(x[0] / temperature - (x[0] / temperature).max())
    p /= p.sum()
    order = np.argsort(-p)
    if "top_k" in knobs:
        p[order[3:]] = 0
    if "top_p" in knobs:
        p[order[(np.cumsum(p[order]) - p[order]) >= 0.7]] = 0
    if "min_p" in knobs:
        p[p < 0.2 * p.max()] = 0
    p /= p.sum()
    assert np.all(found[p == 0] == 0)
    assert np.abs(found - p).max() < 0.035


def test_a_row_is_drawn_as_if_alone_and_bias_and_padding_hold():
    x = jnp.asarray(logits_of(3, 4))
    asked = [
        Request(tokens=[1] * 2, max_new_tokens=9, temperature=1.0, seed=2**40 + 7),
        Request(tokens=[1] * 3, max_new_tokens=9, temperature=0.3, seed=7, top_k=2),
        Request(tokens=[1], max_new_tokens=9, logit_bias={4: 100.0}),
        Request(tokens=[1], max_new_tokens=9, temperature=5.0, logit_bias={V - 1: 1e4}),
    ]
    tokens = jnp.zeros((4, 8), jnp.int32)
    controls = controls_of(asked, 4, vocab_size=V - 1)
    together = choose(x, controls, tokens_BS=tokens, lengths_B=jnp.arange(4))
    for row, request in enumerate(asked):
        one = choose(
            x[row : row + 1],
            controls_of([request], 1, vocab_size=V - 1),
            tokens_BS=tokens[:1],
            lengths_B=jnp.asarray([row]),
        )
        assert int(one.ids[0]) == int(together.ids[row])
    assert int(together.ids[2]) == 4
    assert int(together.ids[3]) != V - 1
