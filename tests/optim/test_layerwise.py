"""LAMB and Adafactor: as optax on one matrix, and layer by layer on stacked ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmx.params import Init, Param
from tests.optim.test_assemble import train_optax
from tests.optim.toy import (
    full_rate,
    gradients_like,
    max_difference,
    optimizer_config,
    run,
    runner,
    toy_params,
    toy_specs,
)

SMALL = {"lamb": {}, "adafactor": {"min_size": 8}}


@pytest.mark.parametrize("name", SMALL)
def test_stacked_layers_are_as_separate_ones(name):
    stacked, params = toy_specs(n_layers=3), toy_params(toy_specs(n_layers=3))
    params["layers"][0] = jax.tree.map(
        lambda p: p * jnp.asarray([1.0, 3.0, 0.2]).reshape(-1, *[1] * (p.ndim - 1)), params["layers"][0]
    )
    gradients = [gradients_like(params, i) for i in range(3)]
    layer = lambda tree, i: tree | {"layers": [jax.tree.map(lambda x: x[i : i + 1], tree["layers"][0])]}
    optimizer = optimizer_config(name, clip_norm=None, **SMALL[name])
    together, _ = run(optimizer, stacked, params, gradients)
    separate = runner(optimizer, toy_specs(n_layers=1))
    for i in range(3):
        alone, _ = separate(layer(params, i), [layer(g, i) for g in gradients])
        assert max_difference(layer(together, i), alone) < 2e-6


def matrix(rows, columns):
    return {"w": Param((rows, columns), ("embed", "ffn"), Init("normal", 0.3), ("embed",))}


def test_lamb_is_optax_lamb():
    specs = matrix(12, 20)
    params = toy_params(specs)
    gradients = [gradients_like(params, i) for i in range(4)]
    o = optimizer_config("lamb", clip_norm=None)
    mine, _ = run(o, specs, params, gradients)
    theirs = train_optax(
        optax.lamb(o.learning_rate, o.b1, o.b2, o.epsilon, weight_decay=0.1), params, gradients
    )
    assert max_difference(mine, theirs) < 1e-6


@pytest.mark.parametrize("factored", [True, False])
@pytest.mark.parametrize("momentum", [None, 0.9])
def test_adafactor_is_optax_adafactor(factored, momentum):
    specs = matrix(12, 20)
    params = toy_params(specs)
    gradients = [gradients_like(params, i) for i in range(4)]
    o = optimizer_config("adafactor", min_size=12 if factored else 13, momentum=momentum)
    mine, state = run(o, specs, params, gradients)
    # optax averages steps that include the learning rate: the same thing while that is constant.
    theirs = train_optax(optax.adafactor(o.learning_rate, o.min_size, momentum=momentum), params, gradients)
    assert max_difference(mine, theirs) < 1e-6
    sizes = sorted(x.size for x in jax.tree.leaves(state) if x.ndim > 0)
    assert sizes == ([12, 20] if factored else [240]) + ([240] if momentum else [])


def test_adafactor_factors_inputs_against_outputs_of_every_layer():
    specs = toy_specs()
    state = optimizer_config("adafactor", min_size=8).build(specs, full_rate).init(toy_params())
    shapes = jax.tree.map(np.shape, (state.inner.rows, state.inner.columns))
    attention = [tree["layers"][0]["attention"] for tree in shapes]
    assert [a["query"] for a in attention] == [(2, 16, 1, 1), (2, 1, 4, 8)]
    assert [a["out"] for a in attention] == [(2, 4, 8, 1), (2, 1, 1, 16)]
    assert state.inner.full["layers"][0]["norm"].shape == (2, 16)
    assert state.inner.full["layers"][0]["attention"]["query"] is None
