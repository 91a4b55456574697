"""One layer at a time, though layers are stacked in one array."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lmx.params import Param, map_params
from lmx.types import Tree

STACKED = ("layers", "experts")
"""Axes along which independent weights are stacked."""


def layer_axes(param: Param) -> tuple[int, ...]:
    """Dimensions of one layer's (and one expert's) part of a parameter."""
    return tuple(i for i, axis in enumerate(param.axes) if axis not in STACKED)


def trust_ratio(specs: Tree) -> Callable[[Tree, Tree], Tree]:
    """Scales each layer's step to the norm of its weights (arXiv:1904.00962); 1 where either norm is 0."""

    def one(param: Param, step: jax.Array, weight: jax.Array) -> jax.Array:
        axes = layer_axes(param)
        norm = lambda x: jnp.sqrt(jnp.sum(jnp.square(x), axis=axes, keepdims=True))
        step_norm, weight_norm = norm(step), norm(weight)
        usable = (step_norm > 0) & (weight_norm > 0)
        return step * jnp.where(usable, weight_norm / jnp.where(usable, step_norm, 1.0), 1.0)

    return lambda steps, params: map_params(one, specs, steps, params)
