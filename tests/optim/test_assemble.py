"""What the rules share: AdamW against optax, clipping, decay of each kind, the step of the schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmx.optim.assemble import _decayed
from lmx.optim.groups import kind
from lmx.params import map_params
from tests.optim.toy import (
    full_rate,
    gradients_like,
    max_difference,
    optimizer_config,
    run,
    schedule_config,
    toy_params,
    toy_specs,
)

STEPS = 6


def train_optax(tx, params, gradients):
    state, update = tx.init(params), jax.jit(tx.update)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("nesterov", [False, True])
def test_adamw_is_optax_adamw(nesterov):
    specs, params = toy_specs(), toy_params()
    gradients = [gradients_like(params, i) for i in range(STEPS)]
    factor = schedule_config("cosine", warmup=2).build(total_steps=STEPS, tokens_per_step=1)
    o = optimizer_config("nadamw" if nesterov else "adamw", learning_rate=3e-3, weight_decay=0.2)
    assert o.nesterov == nesterov
    decayed = map_params(lambda p: kind(p) != "vector", specs)
    rule = optax.adamw(
        lambda t: o.learning_rate * factor(t),
        o.b1,
        o.b2,
        o.epsilon,
        weight_decay=0.2,
        mask=decayed,
        nesterov=nesterov,
    )
    theirs = train_optax(optax.chain(optax.clip_by_global_norm(o.clip_norm), rule), params, gradients)
    mine, _ = run(o, specs, params, gradients, schedule=factor)
    assert max_difference(mine, theirs) < 1e-7
    assert max_difference(mine, params) > 1e-3


def test_adamw_is_the_formula():
    """arXiv:1711.05101, algorithm 2, in float64."""
    specs, params = toy_specs(), toy_params()
    o = optimizer_config("adamw", clip_norm=None, weight_decay=0.3, groups={})
    gradients = [gradients_like(params, i) for i in range(STEPS)]
    mine, _ = run(o, specs, params, gradients)
    p = np.asarray(params["head"], np.float64)
    m = v = 0.0
    for t, g in enumerate(np.asarray(g["head"], np.float64) for g in gradients):
        m, v = o.b1 * m + (1 - o.b1) * g, o.b2 * v + (1 - o.b2) * g * g
        m_hat, v_hat = m / (1 - o.b1 ** (t + 1)), v / (1 - o.b2 ** (t + 1))
        p = p - o.learning_rate * (m_hat / (np.sqrt(v_hat) + o.epsilon) + 0.3 * p)
    np.testing.assert_allclose(mine["head"], p, atol=1e-7)


def one_step(optimizer, params, gradients, **extra):
    tx = optimizer.build(toy_specs(), full_rate)
    return jax.jit(tx.update)(gradients, tx.init(params), params, **extra)[0]


def test_clipping_takes_the_norm_that_is_known_already():
    params = toy_params()
    gradients = gradients_like(params)
    norm = optax.global_norm(gradients)
    sgd = optimizer_config("sgd", clip_norm=1.5, momentum=None, learning_rate=1.0)
    clipped = one_step(sgd, params, gradients)
    assert optax.global_norm(clipped) == pytest.approx(1.5, rel=1e-5)
    assert max_difference(clipped, one_step(sgd, params, gradients, grad_norm=norm)) < 1e-7
    # It is believed: half the norm clips half as much.
    assert optax.global_norm(one_step(sgd, params, gradients, grad_norm=norm / 2)) == pytest.approx(
        3.0, rel=1e-5
    )
    # Below the limit nothing changes, and a norm of 0 is no division by it.
    wide = optimizer_config("sgd", clip_norm=1e6, momentum=None, learning_rate=1.0)
    assert max_difference(jax.tree.map(jnp.negative, gradients), one_step(wide, params, gradients)) == 0
    zeros = jax.tree.map(jnp.zeros_like, params)
    assert float(optax.global_norm(one_step(sgd, params, zeros))) == 0


def test_the_schedule_is_read_at_the_step_that_is_given():
    params, specs = toy_params(), toy_specs()
    gradients = gradients_like(params)
    tx = optimizer_config("sgd", momentum=None, clip_norm=None).build(specs, lambda step: step * 1.0)
    state = tx.init(params)
    assert float(optax.global_norm(tx.update(gradients, state, params)[0])) == 0
    given_step, after = tx.update(gradients, state, params, step=3)
    counted = tx.update(gradients, state._replace(count=jnp.int32(3)), params)[0]
    assert max_difference(given_step, counted) == 0
    assert int(after.count) == 1


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_cautious_decay_acts_only_where_the_update_shrinks_the_weight(name):
    """Seen from outside: compare the steps taken with and without decay."""
    params, gradients = toy_params(), gradients_like(toy_params())
    changes = {"weight_decay": 0.1, "decay_kind": "cautious", "groups": {}}
    plain = one_step(optimizer_config(name, **changes | {"weight_decay": 0.0}), params, gradients)
    both = one_step(optimizer_config(name, **changes), params, gradients)
    rate = optimizer_config(name).learning_rate
    for path in ("query", "out"):
        p = np.asarray(params["layers"][0]["attention"][path])
        step = np.asarray(plain["layers"][0]["attention"][path])
        extra = np.asarray(both["layers"][0]["attention"][path]) - step
        shrinks = step * p < 0  # the step alone already moves the weight towards zero
        assert 0.2 < shrinks.mean() < 0.8
        np.testing.assert_allclose(extra[shrinks], -rate * 0.1 * p[shrinks], rtol=1e-3, atol=1e-7)
        assert np.abs(extra[~shrinks]).max() < 1e-8


NUMBERS = st.floats(-10, 10, width=32, allow_subnormal=False)


@given(u=NUMBERS, p=NUMBERS, decay=st.floats(0.0625, 1, width=32))
@settings(max_examples=100, deadline=None)
def test_cautious_decay_never_works_against_the_update(u, p, decay):
    u, p = np.float32(u), np.float32(p)
    extra = float(_decayed("cautious", jnp.asarray(u), jnp.asarray(p), decay)) - float(u)
    assert extra * float(u) >= 0  # what is added points the way of the update
    assert extra * float(p) >= 0  # and, being subtracted, towards zero
    if u * p > 1e-3:
        assert extra == pytest.approx(decay * p, abs=1e-5)


def test_independent_decay_does_not_know_the_learning_rate():
    params = toy_params()
    zeros = jax.tree.map(jnp.zeros_like, params)
    for rate in (0.1, 0.001):
        config = optimizer_config(
            "sgd", learning_rate=rate, weight_decay=0.01, decay_kind="independent", groups={}
        )
        updates = one_step(config, params, zeros)
        assert max_difference(updates, jax.tree.map(lambda p: -0.01 * p, params)) < 1e-8
