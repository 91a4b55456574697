"""Casting in the loop and carrying gradients out narrow changes no bit of the result."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx import params as param_tree
from lmx.models import narrow
from tests.support import build_model, model_config


def gradients(remat, monkeypatch, *, plainly):
    if plainly:
        monkeypatch.setattr(
            narrow, "apart", lambda stacks, dtype: (stacks, jax.tree.map(lambda w: None, stacks))
        )
    sizes = {
        "n_layers": 3,
        "d_model": 32,
        "n_heads": 2,
        "layer_loop": "scan",
        "remat": remat,
        "initializer.residual": "plain",
    }
    model = build_model(model_config("tiny", sizes), dtype="bfloat16")
    params = param_tree.init(model.specs, jax.random.key(0), jnp.dtype("float32"))
    tokens = jnp.arange(32).reshape(2, 16) * 7 % 256

    def loss(params):
        return jnp.sum(model.forward(params, tokens).hidden.astype(jnp.float32) ** 2)

    return jax.jit(jax.value_and_grad(loss))(params), params


@pytest.mark.parametrize("remat", ["full", "none"])
def test_the_same_loss_and_gradients_bit_for_bit(remat, monkeypatch):
    (loss, grads), params = gradients(remat, monkeypatch, plainly=False)
    (wanted, all_wanted), _ = gradients(remat, monkeypatch, plainly=True)
    assert loss == wanted
    for grad, want, param in zip(
        jax.tree.leaves(grads), jax.tree.leaves(all_wanted), jax.tree.leaves(params), strict=True
    ):
        assert grad.dtype == param.dtype == jnp.float32
        np.testing.assert_array_equal(grad, want)
        assert np.any(np.asarray(grad) != 0)


def test_what_is_carried_apart():
    stacks = {
        "mlp": {"up": jnp.ones((3, 4, 5))},
        "norm": jnp.ones((3, 4)),
        "router": {"weight": jnp.ones((3, 4, 2))},
        "narrow": jnp.ones((3, 4, 5), jnp.bfloat16),
    }
    _, carriers = narrow.apart(stacks, jnp.bfloat16)
    assert carriers["mlp"]["up"].dtype == jnp.bfloat16
    assert (carriers["norm"], carriers["router"]["weight"], carriers["narrow"]) == (None, None, None)
    assert narrow.apart(stacks, jnp.float32)[1]["mlp"]["up"] is None
    layer = jax.tree.map(lambda w: w[0], stacks)
    inside = narrow.together(layer, jax.tree.map(lambda c: c[0], carriers), jnp.array(0))
    assert inside["mlp"]["up"].dtype == jnp.bfloat16
    assert inside["router"]["weight"].dtype == jnp.float32
