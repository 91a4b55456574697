"""Short causal convolutions, each channel apart: a token mixed with the few before it in its document.

Known as token shift (RWKV, arXiv:2305.13048) and as Canon layers (Allen-Zhu, Physics of Language Models, part 4.1).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lmx.layers.attention import Context
from lmx.layers.cache import CacheSlot
from lmx.params import Init, Param


def convolution_specs(earlier: int, width: int, *, stack: int | None = None) -> Param:
    """One weight a channel for each of `earlier` tokens, the nearest first; they start at 0: no mixing."""
    layers, names = ((), ()) if stack is None else ((stack,), ("layers",))
    return Param((*layers, earlier, width), (*names, "position", "norm"), Init("zeros"))


def convolve(
    x_BTD: jax.Array,
    weights_CD: jax.Array,
    place: str,
    *,
    context: Context,
    cache: CacheSlot | None,
) -> tuple[jax.Array, CacheSlot | None]:
    """x + the sum over c = 1..C of weights[c - 1] times x of c tokens before; and the cache, which keeps x.

    `place` names the convolution among those of a layer.
    """
    if cache is None:
        return mix(x_BTD, weights_CD, context.positions), None
    positions_BT, filling = context.positions, context.filling
    assert positions_BT is not None
    assert filling is not None
    cache, held_BSD = cache.write_inputs(place, filling, x_BTD)
    if filling.fresh:
        return mix(x_BTD, weights_CD, positions_BT), cache
    y_BTD = x_BTD
    for back, weight_D in enumerate(weights_CD, start=1):
        at_BT1 = jnp.maximum(positions_BT - back, 0)[..., None]
        before_BTD = jnp.take_along_axis(held_BSD, at_BT1, axis=1).astype(x_BTD.dtype)
        y_BTD = y_BTD + jnp.where((positions_BT >= back)[..., None], before_BTD, 0) * weight_D
    return y_BTD, cache


def _shifted(x_BTD: jax.Array, back: int) -> jax.Array:
    """Row t holds what row t - back held, 0 where there was none; `back` may be negative."""
    start = ((0, 0), (max(back, 0), max(-back, 0)), (0, 0))
    first = max(-back, 0)
    return jnp.pad(x_BTD, start)[:, first : first + x_BTD.shape[1]]


def _inside(x_BTD: jax.Array, back: int, positions_BT: jax.Array | None) -> jax.Array:
    """`x` where its document has a token `back` before, else 0."""
    return x_BTD if positions_BT is None else jnp.where((positions_BT >= back)[..., None], x_BTD, 0)


@jax.custom_vjp
def mix(x_BTD: jax.Array, weights_CD: jax.Array, positions_BT: jax.Array | None) -> jax.Array:
    """x + the sum over c = 1..C of weights[c - 1] times x of c tokens before; in float32, result as `x`.

    Positions are those within each document, or None where each row is 0..T-1.
    """
    y_BTD = x_BTD.astype(jnp.float32)
    for back, weight_D in enumerate(weights_CD.astype(jnp.float32), start=1):
        y_BTD = y_BTD + _inside(_shifted(x_BTD, back).astype(jnp.float32), back, positions_BT) * weight_D
    return y_BTD.astype(x_BTD.dtype)


def _mix_backward(kept: tuple, dy_BTD: jax.Array) -> tuple[jax.Array, jax.Array, None]:
    x_BTD, weights_CD, positions_BT = kept
    dy_BTD = dy_BTD.astype(jnp.float32)
    dx_BTD, sums = dy_BTD, []
    for back, weight_D in enumerate(weights_CD.astype(jnp.float32), start=1):
        inside_BTD = _inside(dy_BTD, back, positions_BT)
        dx_BTD = dx_BTD + _shifted(inside_BTD, -back) * weight_D
        # Summed over tokens as a product with ones: XLA's sum takes five times as long on CPU.
        terms_MD = (inside_BTD * _shifted(x_BTD, back)).reshape(-1, x_BTD.shape[2])
        sums.append(jnp.ones(terms_MD.shape[0], jnp.float32) @ terms_MD)
    return dx_BTD.astype(x_BTD.dtype), jnp.stack(sums).astype(weights_CD.dtype), None


mix.defvjp(lambda x, w, positions: (mix(x, w, positions), (x, w, positions)), _mix_backward)
