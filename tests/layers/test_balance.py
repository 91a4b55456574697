"""Biases that move by loads, and capacity."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lmx.layers import balance
from lmx.layers.capacity import capacity, keep
from lmx.layers.moe import route
from tests.support import model_config


def test_a_skewed_router_becomes_balanced():
    """Two of eight experts score so high that they take nearly all; moving biases spread the choices evenly."""
    sizes = {"d_model": 8, "n_heads": 1, "vocab_size": 9, "moe.n_experts": 8, "moe.top_k": 2, "moe.d_ff": 4}
    router = {"scores": "sigmoid", "bias": "choice", "bias_update_speed": 0.01}
    config = model_config("moe_tiny", sizes | {f"moe.router.{k}": v for k, v in router.items()})
    speed = config.moe.router.bias_update_speed
    skew = jnp.where(jnp.arange(8) < 2, 1.5, 0.0)

    @jax.jit
    def step(bias, key):
        x = jax.random.normal(key, (1, 4096, 8)) / 2 + skew
        experts = route(x, {"weight": jnp.eye(8), "choice_bias": bias}, config.moe).experts
        choices = (experts[..., None] == jnp.arange(8)).sum((0, 1, 2))[None]
        return balance.moved(bias[None], choices, speed)[0], balance.statistics({"choices": choices})

    bias, loads = jnp.zeros(8), []
    for key in jax.random.split(jax.random.key(0), 150):
        bias, shown = step(bias, key)
        loads.append(float(shown["experts/max_load"]))
    assert loads[0] > 3
    assert np.mean(loads[-20:]) < 1.2
    assert float(bias[:2].max()) < float(bias[2:].min())


def test_a_bias_without_speed_stays():
    bias = jnp.array([[0.5, -0.5]])
    np.testing.assert_array_equal(balance.moved(bias, jnp.array([[9, 1]]), None), bias)
    np.testing.assert_array_equal(balance.moved(bias, jnp.array([[9, 1]]), 0.25), [[0.25, -0.25]])
    np.testing.assert_array_equal(balance.moved(bias, jnp.array([[5, 5]]), 0.25), bias)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 3), st.floats(0.1, 4))
def test_capacity_keeps_the_first_and_never_more(seed, top_k, factor):
    rng = np.random.default_rng(seed)
    experts = rng.random((2, 9, 5)).argsort(-1)[..., :top_k]
    room = capacity(factor, 9, top_k=top_k, n_experts=5)
    assert min(9, factor * 9 * top_k / 5) <= room + 1e-9
    kept = np.asarray(keep(jnp.asarray(experts), 5, room))
    for row, its in zip(experts, kept, strict=True):
        taken = np.zeros(5, int)
        for token, flags in zip(row, its, strict=True):
            np.testing.assert_array_equal(flags, taken[token] < room)
            taken[token] += 1


def test_what_is_kept_depends_on_nothing_later():
    experts = jax.random.randint(jax.random.key(0), (1, 12, 1), 0, 2)
    for end in (2, 7, 11):
        np.testing.assert_array_equal(keep(experts, 2, 3)[:, :end], keep(experts[:, :end], 2, 3))
