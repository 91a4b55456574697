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
    positions_BT, filling, held_BSD = context.positions, context.filling, None
    if cache is not None:
        assert filling is not None
        cache, held_BSD = cache.write_inputs(place, filling, x_BTD)
    y_BTD = x_BTD
    for back in range(1, weights_CD.shape[0] + 1):
        if held_BSD is None or (filling is not None and filling.fresh):
            before_BTD = jnp.pad(x_BTD, ((0, 0), (back, 0), (0, 0)))[:, : x_BTD.shape[1]]
        else:
            assert positions_BT is not None
            at_BT1 = jnp.maximum(positions_BT - back, 0)[..., None]
            before_BTD = jnp.take_along_axis(held_BSD, at_BT1, axis=1).astype(x_BTD.dtype)
        if positions_BT is not None:
            before_BTD = jnp.where((positions_BT >= back)[..., None], before_BTD, 0)
        y_BTD = y_BTD + before_BTD * weights_CD[back - 1]
    return y_BTD, cache
