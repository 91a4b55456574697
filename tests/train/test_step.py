"""The training step: accumulation, skipped updates, norms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx import params as param_tree
from lmx.layers import Kernels
from lmx.optim import Optimizer
from lmx.train.step import gradients, init_state, make_train_step
from lmx.types import Batch
from tests.support import build_model, model_config, read_option

SMALL = {"n_layers": 2, "d_model": 48, "n_heads": 3, "initializer.residual": "plain"}
KERNELS = Kernels.model_validate(read_option("kernels", "plain")).build("cpu", n_devices=1)


def batch_of(b=8, t=16, seed=0, weights=None):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 256, (b, t + 1)).astype(np.int32)
    weights = np.ones((b, t), np.float32) if weights is None else weights
    return jax.tree.map(jnp.asarray, Batch(tokens[:, :-1], tokens[:, 1:], weights))


def make(optimizer="adamw", *, ema_decay=None, norms=False, accumulation=1, spikes=None):
    model = build_model(model_config("tiny", SMALL))
    tx = Optimizer.model_validate(read_option("optimizer", optimizer)).build(model.specs, lambda step: 1.0)
    step = make_train_step(
        model,
        KERNELS,
        tx,
        learning_rate=lambda s: 1e-3,
        accumulation=accumulation,
        z_loss=0.0,
        seed=0,
        dropout=False,
        ema_decay=ema_decay,
        norms=norms,
        spikes=spikes,
    )
    params = param_tree.init(model.specs, jax.random.key(0), jnp.float32)
    return jax.jit(step), init_state(params, tx, ema=ema_decay is not None, spikes=spikes is not None), model


@pytest.mark.parametrize("accumulation", [2, 4, 8])
def test_accumulation_equals_the_full_batch_with_unequal_weights(accumulation):
    """Micro-batches whose counted tokens differ a lot give the full batch's loss and gradient."""
    model = build_model(model_config("tiny", SMALL))
    params = param_tree.init(model.specs, jax.random.key(0), jnp.float32)
    weights = (np.random.default_rng(1).random((8, 16)) < np.linspace(0.02, 1, 8)[:, None]).astype(np.float32)
    batch = batch_of(weights=weights)
    whole = gradients(model, KERNELS, params, batch, accumulation=1, z_loss=1e-3)
    parts = jax.jit(lambda p: gradients(model, KERNELS, p, batch, accumulation=accumulation, z_loss=1e-3))(
        params
    )
    np.testing.assert_allclose(parts[0]["loss"], whole[0]["loss"], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), parts[1], whole[1])


def test_an_update_that_is_not_finite_changes_nothing_but_the_counts():
    step, state, _ = make(ema_decay=0.9)
    state, _ = step(state, batch_of(seed=1))
    bad = batch_of(seed=2)._replace(weights=jnp.full((8, 16), jnp.nan))
    after, metrics = step(state, bad)
    after, metrics = step(after, bad)
    assert (int(metrics["skipped"]), int(metrics["skipped_run"]), int(after.step)) == (2, 2, 3)
    for name in ("params", "opt_state", "ema"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(state, name))
    again, metrics = step(after, batch_of(seed=3))
    expected, _ = step(state, batch_of(seed=3))
    assert (int(metrics["skipped"]), int(metrics["skipped_run"])) == (2, 0)
    jax.tree.map(np.testing.assert_array_equal, again.params, expected.params)


def test_weight_zero_tokens_count_for_nothing():
    """Other targets under weight 0 change neither loss nor update."""
    step, state, _ = make()
    weights = np.ones((8, 16), np.float32)
    weights[:, ::2] = 0
    one = batch_of(weights=weights)
    other = one._replace(targets=jnp.where(one.weights > 0, one.targets, (one.targets + 1) % 256))
    (a, ma), (b, mb) = step(state, one), step(state, other)
    assert float(ma["loss"]) == float(mb["loss"])
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)


def test_ema_follows_the_parameters():
    step, state, _ = make(ema_decay=0.75)
    after, _ = step(state, batch_of())
    jax.tree.map(
        lambda e, p0, p1: np.testing.assert_allclose(e, 0.75 * p0 + 0.25 * p1, rtol=1e-5, atol=1e-7),
        after.ema,
        state.params,
        after.params,
    )


def test_norms_are_one_a_layer_and_add_up():
    step, state, _ = make(norms=True)
    _, metrics = step(state, batch_of())
    grads = metrics["norms"]["grad"]
    assert grads["layers"][0]["mlp"]["up"].shape == (2,)
    total = np.sqrt(sum(float(jnp.sum(jnp.square(x))) for x in jax.tree.leaves(grads)))
    np.testing.assert_allclose(total, metrics["grad_norm"], rtol=1e-5)


def test_every_step_lowers_the_loss_of_a_repeated_batch():
    step, state, _ = make("muon")
    losses = []
    for _ in range(12):
        state, metrics = step(state, batch_of())
        losses.append(float(metrics["loss"]))
    assert losses[0] == pytest.approx(np.log(256), rel=0.15)
    assert losses[-1] < losses[0] - 1.0
