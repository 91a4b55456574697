"""Products of each token with the weight of its own expert, in several ways.

All put the (token, choice) pairs into rows ordered by expert. `ragged` multiplies groups of any size
(`jax.lax.ragged_dot`), `megablox` does so in a Pallas kernel for TPU; `blocks` fills each expert's rows up to whole
blocks, so that every block has one weight: XLA on CPU computes a ragged product as if every token went to every
expert.

A pair whose expert is `n_experts` belongs nowhere: it was dropped, or is another device's. Its row, if it has one,
holds anything.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lmx.layers import megablox as kernel

Product = Callable[[jax.Array, jax.Array], jax.Array]


class Grouping(NamedTuple):
    """R rows ordered by expert, for M tokens of J choices each.

    choices_R   int32, the (token, choice) pair, counted m * J + j, that a row holds; rows to spare repeat pair 0
    tokens_R    int32, its token
    experts_R   int32, its expert, `n_experts` where it belongs nowhere
    rows_MJ     int32, the row of each pair; beyond the last one where it has none
    product(x_RK, w_EKF) -> y_RF, each row with its expert's weight, in the dtype of x
    """

    choices: jax.Array
    tokens: jax.Array
    experts: jax.Array
    rows: jax.Array
    product: Product


def _inverse(order: jax.Array) -> jax.Array:
    return jnp.zeros_like(order).at[order].set(jnp.arange(order.shape[0], dtype=order.dtype))


def _ordered(experts_MJ: jax.Array, n_experts: int, product: Callable[..., jax.Array]) -> Grouping:
    """Rows without gaps, those that belong nowhere last. `product` is given the sizes of the groups as well."""
    flat = experts_MJ.reshape(-1)
    order = jnp.argsort(flat, stable=True).astype(jnp.int32)
    sizes_E = counts(flat, n_experts)
    return Grouping(
        order,
        order // experts_MJ.shape[1],
        flat[order],
        _inverse(order).reshape(experts_MJ.shape),
        lambda x_RK, w_EKF: product(x_RK, w_EKF.astype(x_RK.dtype), sizes_E),
    )


def counts(experts: jax.Array, n_experts: int) -> jax.Array:
    """int32 [E]: how many pairs each expert has; those that belong nowhere are not counted."""
    return jnp.zeros(n_experts, jnp.int32).at[experts.reshape(-1)].add(1, mode="drop")


# One product after another where they are mapped (stages of a pipeline): neither kernel maps its gradient.
_by_expert = jax.custom_batching.sequential_vmap(jax.lax.ragged_dot)


@jax.custom_batching.sequential_vmap
def _over_rows(x_RK: jax.Array, y_RF: jax.Array, sizes_E: jax.Array) -> jax.Array:
    numbers = jax.lax.RaggedDotDimensionNumbers(
        dot_dimension_numbers=(((0,), (0,)), ((), ())), lhs_ragged_dimensions=[0], rhs_group_dimensions=[]
    )
    return jax.lax.ragged_dot_general(x_RK, y_RF, sizes_E, numbers)


@jax.custom_vjp
def ragged_product(x_RK: jax.Array, w_EKF: jax.Array, sizes_E: jax.Array) -> jax.Array:
    """[R, F] in the dtype of `x`: the first `sizes[0]` rows times `w[0]`, and so on."""
    return _by_expert(x_RK, w_EKF, sizes_E)


def _ragged_backward(kept: tuple[jax.Array, ...], dy_RF: jax.Array) -> tuple[jax.Array, jax.Array, None]:
    x_RK, w_EKF, sizes_E = kept
    dx_RK = _by_expert(dy_RF, w_EKF.swapaxes(1, 2), sizes_E)
    return dx_RK, _over_rows(x_RK, dy_RF, sizes_E).astype(w_EKF.dtype), None


ragged_product.defvjp(lambda x, w, sizes: (ragged_product(x, w, sizes), (x, w, sizes)), _ragged_backward)


def ragged(experts_MJ: jax.Array, n_experts: int) -> Grouping:
    """Rows without gaps, multiplied by `jax.lax.ragged_dot`."""
    return _ordered(experts_MJ, n_experts, ragged_product)


def megablox(experts_MJ: jax.Array, n_experts: int, *, interpret: bool = False) -> Grouping:
    """Rows without gaps, multiplied by the Pallas kernel; `interpret` runs it without a TPU."""
    return _ordered(experts_MJ, n_experts, partial(kernel.product, interpret))


def block_size(pairs: int, n_experts: int) -> int:
    """Rows a block: about half of an expert's even share, so that little is filled up, from 1 to 128."""
    return min(128, 1 << max(0, (pairs // (2 * n_experts)).bit_length() - 1))


def blocks(experts_MJ: jax.Array, n_experts: int) -> Grouping:
    """Rows filled up to whole blocks of `block_size`; pairs that belong nowhere have none."""
    flat = experts_MJ.reshape(-1)
    pairs = flat.shape[0]
    size = block_size(pairs, n_experts)
    n_blocks = pairs // size + (min(n_experts, pairs) if size > 1 else 0)
    sizes_E = counts(flat, n_experts)
    ends_E = jnp.cumsum(-(-sizes_E // size))  # in blocks
    starts_E = ends_E * size - -(-sizes_E // size) * size
    order = jnp.argsort(flat, stable=True).astype(jnp.int32)
    before_E = jnp.cumsum(sizes_E) - sizes_E
    rank = _inverse(order) - before_E.at[flat].get(mode="clip")  # of each pair among those of its expert
    rows = jnp.where(flat < n_experts, starts_E.at[flat].get(mode="clip") + rank, n_blocks * size)
    pair = jnp.arange(pairs, dtype=jnp.int32)
    choices = jnp.zeros(n_blocks * size, jnp.int32).at[rows].set(pair, mode="drop")
    experts = jnp.minimum(jnp.searchsorted(ends_E, jnp.arange(n_blocks), side="right"), n_experts - 1)

    def product(x_RK: jax.Array, w_EKF: jax.Array) -> jax.Array:
        x = x_RK.reshape(n_blocks, size, -1)
        return jnp.einsum("gbk,gkf->gbf", x, w_EKF.astype(x.dtype)[experts]).reshape(n_blocks * size, -1)

    return Grouping(
        choices,
        choices // experts_MJ.shape[1],
        jnp.repeat(experts, size),
        rows.reshape(experts_MJ.shape),
        product,
    )
