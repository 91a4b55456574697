"""Normalisation, computed in float32 whatever the compute dtype."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lmx.params import Init, Param
from lmx.types import Tree


def norm_specs(size: int, axis: str, *, scale: str, bias: bool, stack: int | None = None) -> dict[str, Param]:
    """Parameters of a norm over `size` elements: `scale` and `bias`, as far as they exist."""
    shape, axes = ((size,), (axis,)) if stack is None else ((stack, size), ("layers", axis))
    specs = {}
    if scale != "none":
        specs["scale"] = Param(shape, axes, Init("ones" if scale == "weight" else "zeros"))
    if bias:
        specs["bias"] = Param(shape, axes, Init("zeros"))
    return specs


def norm(x: jax.Array, params: Tree, *, kind: str, epsilon: float, scale: str, scale_in: str) -> jax.Array:
    """`rms_norm` (arXiv:1910.07467) or `layer_norm` (arXiv:1607.06450) over the last axis; dtype of `x`."""
    x32 = x.astype(jnp.float32)
    if kind == "layer_norm":
        x32 = x32 - x32.mean(-1, keepdims=True)
    y = x32 * jax.lax.rsqrt((x32 * x32).mean(-1, keepdims=True) + epsilon)
    if scale_in == "compute":
        y = y.astype(x.dtype)
    if scale != "none":
        weight = params["scale"].astype(y.dtype)
        y = y * (weight if scale == "weight" else 1 + weight)
    if "bias" in params:
        y = y + params["bias"].astype(y.dtype)
    return y.astype(x.dtype)
