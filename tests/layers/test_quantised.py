"""Products in 8 bits are close to those they stand for, forward and backward, whatever the sizes of rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.layers.quantised import Coarse, einsum, scaled
from tests.support import kernels_config

SPECS = {
    "btd,dnh->btnh": ((2, 16, 64), (64, 4, 8)),
    "btnh,nhd->btd": ((2, 16, 4, 16), (4, 16, 32)),
    "btf,fd->btd": ((2, 16, 48), (48, 32)),
}
NOISE = {"int8": 0.015, "fp8": 0.08}  # e5m2 has three digits


def error(got, exact):
    return float(
        jnp.linalg.norm((got - exact).astype(jnp.float32)) / jnp.linalg.norm(exact.astype(jnp.float32))
    )


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("form", NOISE)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_close_to_the_exact_product_and_its_gradients(spec, form, dtype):
    keys = jax.random.split(jax.random.key(0), 3)
    x, w = (jax.random.normal(key, shape) for key, shape in zip(keys, SPECS[spec], strict=False))
    # Rows larger than others: a scale of each row's own does not let them spoil the others. The gradient of the weight
    # sums over rows: int8 leaves it alone, fp8 has the range of its exponents.
    x = x * jnp.array([1.0, 1e6 if form == "int8" else 16.0]).reshape(2, *(1,) * (x.ndim - 1))
    exact, pull = jax.vjp(lambda x, w: jnp.einsum(spec, x, w), x, w)
    dy = jax.random.normal(keys[2], exact.shape) / jnp.abs(x).max(axis=tuple(range(1, x.ndim))).reshape(
        2, *(1,) * (exact.ndim - 1)
    )
    got, pull_coarse = jax.vjp(
        lambda x, w: einsum(spec, x, Coarse(w, form)), x.astype(dtype), w.astype(dtype)
    )
    assert got.dtype == dtype
    gradients = pull_coarse(dy.astype(dtype))
    assert [g.dtype for g in gradients] == [dtype, dtype]
    for a, b in zip((got, *gradients), (exact, *pull(dy)), strict=True):
        for row in range(2 if a.shape == b.shape and a.shape[0] == 2 else 1):
            part = (row,) if a.shape[0] == 2 else ()
            assert error(a[part], b[part]) < NOISE[form]
    assert error(got, exact) > 1e-5  # it is coarse


def test_scale_is_one_for_all_that_is_summed():
    x = jnp.array([[1.0, -2.0], [0.0, 0.0], [300.0, 5.0]])
    y, scale = scaled(x, (1,), "int8")
    assert y.dtype == jnp.int8
    np.testing.assert_array_equal(np.abs(y).max(1), [127, 0, 127])
    np.testing.assert_allclose(y * scale, x, atol=300 / 254)


def test_kernels_send_marked_weights_there():
    kernels = kernels_config("auto").build("cpu")
    x, w = jnp.ones((1, 3, 8)), jax.random.normal(jax.random.key(0), (8, 5))
    plain, coarse = kernels.einsums(("btd,df->btf", "btd,df->btf"), x, (w, Coarse(w, "int8")))
    np.testing.assert_array_equal(coarse, einsum("btd,df->btf", x, Coarse(w, "int8")))
    np.testing.assert_allclose(plain, jnp.einsum("btd,df->btf", x, w), rtol=1e-5)
    assert 0 < float(jnp.abs(plain - coarse).max()) < 0.1
