"""Weights of scanned layers in the compute dtype: cast in the layer that uses them, gradients kept as narrow.

A product in bfloat16 gives the gradient of its weight in bfloat16. Differentiated as it stands, a scan over layers
widens each of them to float32 and stacks them so, and the compiler casts all layers' weights ahead of the loop: six
bytes a parameter that hold no more than two. Here the weights enter the loop as they are and are cast inside; their
gradients leave it through a second input that has no other purpose, in the dtype of the products, and are widened
where they are used. The values are the same.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lmx.types import Tree


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _carrier(weight: jax.Array, dtype: Any) -> jax.Array:
    """Zeros like `weight`, whose gradient is the weight's."""
    return jnp.zeros(weight.shape, dtype)


def _carrier_forward(weight: jax.Array, dtype: Any) -> tuple[jax.Array, jax.Array]:
    return _carrier(weight, dtype), jnp.zeros((), weight.dtype)


def _carrier_backward(dtype: Any, wide: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    return (gradient.astype(wide.dtype),)


_carrier.defvjp(_carrier_forward, _carrier_backward)


@jax.custom_vjp
def _cast(weight: jax.Array, carrier: jax.Array, one: jax.Array) -> jax.Array:
    """`weight` in the dtype of `carrier`, to which the gradient goes."""
    return (weight * one).astype(carrier.dtype)


def _cast_forward(weight: jax.Array, carrier: jax.Array, one: jax.Array) -> tuple[jax.Array, None]:
    return _cast(weight, carrier, one), None


def _cast_backward(_: None, gradient: jax.Array) -> tuple[None, jax.Array, None]:
    return None, gradient, None


_cast.defvjp(_cast_forward, _cast_backward)


def apart(stacks: Tree, dtype: Any) -> tuple[Tree, Tree]:
    """Stacked weights [L, ...] as they go into a loop, and what carries their gradients out (None: themselves).

    Matrices of a wider dtype than `dtype` are taken; a router, which is not cast, and vectors stay as they are.
    """

    def carried(path: tuple, weight: jax.Array) -> bool:
        names = {getattr(key, "key", None) for key in path}
        wider = (
            jnp.issubdtype(weight.dtype, jnp.floating) and weight.dtype.itemsize > jnp.dtype(dtype).itemsize
        )
        return wider and weight.ndim > 2 and "router" not in names

    kept = jax.tree_util.tree_map_with_path(
        lambda path, w: jax.lax.stop_gradient(w) if carried(path, w) else w, stacks
    )
    carriers = jax.tree_util.tree_map_with_path(
        lambda path, w: _carrier(w, jnp.dtype(dtype)) if carried(path, w) else None, stacks
    )
    return kept, carriers


def together(weights: Tree, carriers: Tree, turn: jax.Array) -> Tree:
    """One layer's weights, inside the loop; `turn` counts its turns."""
    # A factor of one that only the loop knows: a cast alone, or behind a barrier, the TPU's compiler moves out of the
    # loop, to keep a copy of all layers' weights.
    one = jnp.where(jax.lax.optimization_barrier(turn) < 2**30, 1.0, 0.0)
    return jax.tree.map(
        lambda carrier, weight: (
            weight if carrier is None else _cast(weight, carrier, one.astype(weight.dtype))
        ),
        carriers,
        weights,
        is_leaf=lambda x: x is None,
    )
