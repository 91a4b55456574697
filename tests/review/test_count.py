"""Products counted in traced functions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.review.count import product_flops
from tests.support import build_model, model_config

ONE = 2 * 8 * 16 * 4


def flops(function, *arguments):
    return product_flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def test_a_product_and_its_gradients():
    x, w = jnp.ones((8, 16)), jnp.ones((16, 4))
    assert flops(jnp.matmul, x, w) == ONE
    assert flops(jax.grad(lambda x, w: jnp.sum((x @ w) ** 2), (0, 1)), x, w) == 3 * ONE


def test_loops_branches_and_recomputation():
    x, w = jnp.ones((8, 16)), jnp.ones((5, 16, 16))
    layer = lambda x, w: (jnp.sin(x @ w), None)
    each = 2 * 8 * 16 * 16
    assert flops(lambda x: jax.lax.scan(layer, x, w)[0], x) == 5 * each
    square = lambda x: x @ w[0]
    assert flops(lambda x: jax.lax.cond(x.sum() > 0, square, lambda x: x, x), x) == each
    total = lambda remat: lambda x, w: jnp.sum(jax.lax.scan(remat(layer), x, w)[0])
    plain = flops(jax.grad(total(lambda f: f), 1), x, w)
    again = flops(jax.grad(total(jax.checkpoint), 1), x, w)
    assert plain == 5 * 3 * each
    assert again == 5 * 4 * each


def test_products_of_groups():
    x, w = jnp.ones((12, 16)), jnp.ones((3, 16, 4))
    sizes = jnp.array([4, 4, 4], jnp.int32)
    assert flops(lambda x, w: jax.lax.ragged_dot(x, w, sizes), x, w) == 2 * 12 * 16 * 4


def test_the_formula_of_a_model_is_what_its_products_sum_up_to():
    config = model_config("tiny", {"n_layers": 2, "d_model": 64, "n_heads": 2, "remat": "none"})
    model = build_model(config)
    params = jax.tree.map(
        lambda p: jax.ShapeDtypeStruct(p.shape, np.float32), model.specs, is_leaf=lambda x: hasattr(x, "init")
    )
    tokens = jax.ShapeDtypeStruct((2, 64), np.int32)

    def loss(params, tokens):
        hidden = model.forward(params, tokens).hidden
        return jnp.sum((hidden @ model.head(params).weight.T) ** 2)

    counted = flops(jax.grad(loss), params, tokens)
    assert counted == pytest.approx(2 * 64 * model.flops(64).full, rel=0.02)
