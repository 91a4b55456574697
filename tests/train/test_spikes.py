"""Spikes, found inside the training step: what counts as one, and what stays as it was."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.train import Spikes
from lmx.train.spikes import look, no_statistics
from tests.support import read_option
from tests.train.test_step import batch_of, make


def config(option="skip", **changes):
    return Spikes.model_validate(read_option("spikes", option, changes))


def judged(losses, norms, settings):
    """(statistics, whether each step is a spike) after these losses and gradient norms."""
    found, state = [], no_statistics()
    step = jax.jit(lambda s, x, n: look(s, x, n, jnp.isfinite(x) & jnp.isfinite(n), settings))
    for loss, norm in zip(losses, norms, strict=True):
        state, seen = step(state, jnp.float32(loss), jnp.float32(norm))
        found.append(bool(seen.spike))
    return state, found


def test_mean_and_variance_are_those_of_all_steps_at_first_and_exponential_later():
    rng = np.random.default_rng(0)
    losses, norms = 3 + 0.1 * rng.standard_normal(30), np.exp(0.2 * rng.standard_normal(30))
    state, _ = judged(losses[:9], norms[:9], config(decay=0.9))
    np.testing.assert_allclose(state.loss, [losses[:9].mean(), losses[:9].var()], rtol=1e-4)
    np.testing.assert_allclose(state.norm, [np.log(norms[:9]).mean(), np.log(norms[:9]).var()], rtol=1e-4)
    state, _ = judged(losses, norms, config(decay=0.9))
    weights = np.r_[np.full(10, 0.1), [0.1] * 20] * 0.9 ** np.r_[np.full(10, 20), np.arange(19, -1, -1)]
    mean = (weights * losses).sum()
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(state.loss, [mean, (weights * (losses - mean) ** 2).sum()], rtol=1e-3)


@pytest.mark.parametrize(
    ("which", "off", "expected"), [("loss", None, True), ("grad_norm", None, True), ("loss", "loss", False)]
)
def test_a_jump_of_loss_or_norm_is_a_spike_where_it_is_looked_at(which, off, expected):
    rng = np.random.default_rng(1)
    losses, norms = 3 + 0.1 * rng.standard_normal(40), np.exp(0.2 * rng.standard_normal(40))
    if which == "loss":
        losses[35] += 1.5
    else:
        norms[35] *= 20
    changes = {} if off is None else {f"{off}_deviations": None}
    state, found = judged(losses, norms, config(warmup_steps=20, **changes))
    assert [i for i, spike in enumerate(found) if spike] == ([35] if expected else [])
    assert (int(state.count), int(state.run), int(state.steps)) == (expected, 0, 40 - expected)


def test_spikes_in_a_row_are_counted_and_do_not_become_the_rule():
    losses = [3.0, 3.1] * 10 + [6.0] * 7
    state, found = judged(losses, [1.0] * 27, config(warmup_steps=10))
    assert found == [False] * 20 + [True] * 7
    assert (int(state.count), int(state.run)) == (7, 7)
    np.testing.assert_allclose(state.loss[0], 3.05, atol=0.01)


def test_nothing_is_a_spike_in_the_warm_up_and_no_number_is_one_afterwards():
    losses = [3.0, 9.0, np.nan, 3.0, 3.0, 3.0, np.inf, 3.0]
    state, found = judged(losses, [1.0] * 8, config(warmup_steps=5))
    assert found == [False] * 6 + [True, False]
    assert np.isfinite(state.loss).all()
    assert int(state.steps) == 6


@pytest.mark.parametrize(("option", "accumulation"), [("skip", 1), ("skip", 4), ("rewind", 1)])
def test_the_update_of_a_spike_is_left_out_where_spikes_are_skipped(option, accumulation):
    settings = config(option)
    step, fresh, _ = make(spikes=settings, accumulation=accumulation)
    usual = no_statistics()._replace(steps=jnp.int32(100), loss=jnp.float32([3.0, 0.01]))
    state, _ = step(fresh, batch_of(seed=1))
    after, metrics = step(state._replace(spikes=usual), batch_of(seed=2))
    assert (int(metrics["spikes"]), int(metrics["spike_run"])) == (1, 1)
    assert float(metrics["loss_deviations"]) == pytest.approx((float(metrics["loss"]) - 3) / 0.1, rel=1e-4)
    assert (int(metrics["skipped"]), int(metrics["skipped_run"])) == (int(settings.skips), 0)
    leaves = zip(jax.tree.leaves(after[1:4]), jax.tree.leaves(state[1:4]), strict=True)
    same = [np.array_equal(a, b) for a, b in leaves]
    assert all(same) if settings.skips else not any(same)
    again, metrics = step(after._replace(spikes=state.spikes), batch_of(seed=3))
    assert (int(metrics["spikes"]), int(metrics["spike_run"])) == (0, 0)
    if settings.skips:  # as if that batch had never been
        expected, _ = step(state, batch_of(seed=3))
        jax.tree.map(np.testing.assert_array_equal, again.params, expected.params)


def test_nobody_looks_unasked():
    step, state, _ = make()
    assert state.spikes is None
    _, metrics = step(state, batch_of())
    assert not {"spikes", "spike_run", "loss_deviations"} & metrics.keys()
