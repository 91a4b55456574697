"""Products in 8 bits with scales found as they go: int8 (arXiv:2208.07339, section 3.1) or fp8
(arXiv:2209.05433).

Each factor is scaled, by its largest element along what is summed over, to the range of its format; the product is
accumulated in int32 or float32 and scaled back. Nothing is kept from one step to the next.

int8: the product and the gradient of the activations are in 8 bits; that of the weight, which sums over many tokens of
very different size, stays in the compute dtype. fp8: all three, gradients from above in e5m2, the rest in e4m3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

Format = Literal["int8", "fp8"]
_LARGEST = {"int8": 127.0, "float8_e4m3fn": 448.0, "float8_e5m2": 57344.0}
_FORWARD = {"int8": "int8", "fp8": "float8_e4m3fn"}
_BACKWARD = {"int8": "int8", "fp8": "float8_e5m2"}


@partial(jax.tree_util.register_dataclass, data_fields=["weight"], meta_fields=["format"])
@dataclass(frozen=True)
class Coarse:
    """A weight whose products are computed in 8 bits; a tree of one leaf."""

    weight: jax.Array
    format: Format


def scaled(x: jax.Array, axes: tuple[int, ...], dtype: str) -> tuple[jax.Array, jax.Array]:
    """`x` in `dtype`, and the float32 factor [.., 1, ..] that it is to be multiplied by: one for all along `axes`."""
    x32 = x.astype(jnp.float32)
    largest = jnp.max(jnp.abs(x32), axis=axes, keepdims=True)
    scale = jnp.where(largest > 0, largest / _LARGEST[dtype], 1.0)
    y = x32 / scale
    return (jnp.round(y) if dtype == "int8" else y).astype(dtype), scale


def _scaled_product(spec: str, x: jax.Array, y: jax.Array, x_dtype: str, y_dtype: str) -> jax.Array:
    """float32 `jnp.einsum(spec, x, y)`, its factors in the given formats."""
    inputs, out = spec.split("->")
    sides, scales = [], []
    for letters, side, dtype in zip(inputs.split(","), (x, y), (x_dtype, y_dtype), strict=True):
        summed = tuple(i for i, letter in enumerate(letters) if letter not in out)
        side, scale = scaled(side, summed, dtype)
        kept = "".join(letter for letter in letters if letter in out)
        order = sorted(kept, key=out.index)
        scale = scale.squeeze(summed).transpose([kept.index(letter) for letter in order])
        scales.append(jnp.expand_dims(scale, [i for i, letter in enumerate(out) if letter not in kept]))
        sides.append(side)
    total = jnp.int32 if x_dtype == "int8" else jnp.float32
    product = jnp.einsum(spec, *sides, preferred_element_type=total)
    return product.astype(jnp.float32) * scales[0] * scales[1]


def einsum(spec: str, x: jax.Array, w: Coarse) -> jax.Array:
    """`jnp.einsum` of activations with a weight, in the dtype of `x`, computed in the weight's format."""
    return _einsum(spec, w.format, x, w.weight.astype(x.dtype))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _einsum(spec: str, form: str, x: jax.Array, w: jax.Array) -> jax.Array:
    return _scaled_product(spec, x, w, _FORWARD[form], _FORWARD[form]).astype(x.dtype)


def _forward(
    spec: str, form: str, x: jax.Array, w: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _einsum(spec, form, x, w), (x, w)


def _backward(
    spec: str, form: str, kept: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, w = kept
    inputs, out = spec.split("->")
    left, right = inputs.split(",")
    dx = _scaled_product(f"{out},{right}->{left}", dy, w, _BACKWARD[form], _FORWARD[form])
    if form == "int8":
        dw = jnp.einsum(f"{left},{out}->{right}", x, dy)
    else:
        dw = _scaled_product(f"{left},{out}->{right}", x, dy, _FORWARD[form], _BACKWARD[form])
    return dx.astype(x.dtype), dw.astype(w.dtype)


_einsum.defvjp(_forward, _backward)
