"""Grouped matrix products in JAX's Pallas kernel for TPU (MegaBlocks, arXiv:2211.15841)."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

_ROWS, _INPUTS, _OUTPUTS = 512, 1024, 1024
"""Largest tile: twice, with sums in float32, about 10 MiB of bfloat16, of the 16 of vector memory that a chip has."""


def _tiles(rows: int, inputs: int, outputs: int) -> tuple[int, int, int]:
    """Tiles no larger than the product needs."""
    fit = lambda size, most: min(most, -(-size // 128) * 128)
    return fit(rows, _ROWS), fit(inputs, _INPUTS), fit(outputs, _OUTPUTS)


def _fill(x_RK: jax.Array, tile: int) -> jax.Array:
    """Rows up to whole tiles; those that are added belong to no group."""
    return jnp.pad(x_RK, ((0, -x_RK.shape[0] % tile), (0, 0)))


def _by_expert(
    x_RK: jax.Array, w: jax.Array, sizes_E: jax.Array, *, transposed: bool, interpret: bool
) -> jax.Array:
    """[R, F] of w [E, K, F], or of w [E, F, K] where it is `transposed`."""
    from jax.experimental.pallas.ops.tpu.megablox.gmm import gmm  # takes a while, and is for TPU

    @jax.custom_batching.sequential_vmap  # its grid has as many steps as there are tiles to compute
    def product(x_RK: jax.Array, w: jax.Array, sizes_E: jax.Array) -> jax.Array:
        tiles = _tiles(x_RK.shape[0], x_RK.shape[1], w.shape[1 if transposed else 2])
        x = _fill(x_RK, tiles[0])
        knobs = {"transpose_rhs": transposed, "interpret": interpret}
        return gmm(x, w, sizes_E, x_RK.dtype, tiles, **knobs)[: x_RK.shape[0]]

    return product(x_RK, w, sizes_E)


def _over_rows(x_RK: jax.Array, y_RF: jax.Array, sizes_E: jax.Array, *, interpret: bool) -> jax.Array:
    """[E, K, F]: each expert's rows of `x`, transposed, times its rows of `y`."""
    from jax.experimental.pallas.ops.tpu.megablox.gmm import tgmm

    @jax.custom_batching.sequential_vmap
    def product(x_RK: jax.Array, y_RF: jax.Array, sizes_E: jax.Array) -> jax.Array:
        tiles = _tiles(x_RK.shape[0], x_RK.shape[1], y_RF.shape[1])
        x, y = _fill(x_RK, tiles[0]), _fill(y_RF, tiles[0])
        return tgmm(x.T, y, sizes_E, x_RK.dtype, tiles, interpret=interpret)

    return product(x_RK, y_RF, sizes_E)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def product(interpret: bool, x_RK: jax.Array, w_EKF: jax.Array, sizes_E: jax.Array) -> jax.Array:
    """[R, F] in the dtype of `x`: the first `sizes[0]` rows times `w[0]`, and so on; rows after those hold anything."""
    return _by_expert(x_RK, w_EKF, sizes_E, transposed=False, interpret=interpret)


def _product_forward(interpret: bool, x: jax.Array, w: jax.Array, sizes: jax.Array) -> tuple:
    return product(interpret, x, w, sizes), (x, w, sizes)


def _product_backward(interpret: bool, kept: tuple[jax.Array, ...], dy_RF: jax.Array) -> tuple:
    x_RK, w_EKF, sizes_E = kept
    dx_RK = _by_expert(dy_RF, w_EKF, sizes_E, transposed=True, interpret=interpret)
    return dx_RK, _over_rows(x_RK, dy_RF, sizes_E, interpret=interpret).astype(w_EKF.dtype), None


product.defvjp(_product_forward, _product_backward)
