"""The decoder's cache: made empty, cut into what each place of the layers holds, and how a call fills it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from lmx.layers.cache import CacheSlot, Filling
from lmx.models.network import Network
from lmx.models.specs import layer_groups
from lmx.types import KVCache


def filling_of(cache: KVCache, tokens_BT: jax.Array, segments_BT: jax.Array | None) -> Filling:
    """Which positions of the cache this call fills: all of its tokens, or those with a segment."""
    b, t = tokens_BT.shape
    counts_B = jnp.full((b,), t, jnp.int32) if segments_BT is None else (segments_BT != 0).sum(-1, jnp.int32)
    # A cache with room for this call's tokens alone must be empty: none of the past is to be looked at.
    return Filling(cache.lengths, counts_B, cache.tokens.shape[1], cache.tokens.shape == tokens_BT.shape)


def slot_of(cache: KVCache, place: int) -> CacheSlot:
    """What the layers at one place of the period hold."""
    return CacheSlot(cache.keys[place], cache.values[place], cache.inputs[place], 0)


def cache_shardings(network: Network, cache: KVCache) -> KVCache | None:
    """How the arrays of a cache lie on the mesh, by their shapes: rows as a batch's; None on one device."""
    if network.shard.mesh is None:
        return None

    def each(name: str | None, arrays: Any) -> Any:
        # In front of the rows of a stack stand its layers; what follows the rows of keys and values are the heads.
        axes = lambda x: (*(None,) * (x.ndim - 4), "batch", name, None, None)
        return jax.tree.map(lambda x: network.shard.layout(x.shape, axes(x)), arrays)

    rows = lambda x: network.shard.layout(x.shape, ("batch", *(None,) * (x.ndim - 1)))
    return KVCache(
        each("act_kv_heads", cache.keys),
        each("act_kv_heads", cache.values),
        each(None, cache.inputs),
        *map(rows, (cache.tokens, cache.lengths, cache.limits)),
    )


def init_cache(network: Network, batch: int, length: int, dtype: Any = None) -> KVCache:
    """An empty cache of `length` positions a row, in `dtype` or the dtype of computation."""
    config = network.config
    latent = config.attention.latent
    if latent is None:
        heads, widths = config.n_kv_heads, (config.head_dim, config.head_dim)
    else:
        heads, widths = 1, (latent.key_value_rank + latent.rope_dim, 0)

    def stack(repeats: int, slots: int, width: int, heads: int = heads) -> Any:
        # Where layers are unrolled, each has an array of its own: none is cut out of a stack.
        one = (batch, heads, slots, width)
        if config.layer_loop == "unroll":
            return tuple(jnp.zeros(one, dtype or network.dtype) for _ in range(repeats))
        return jnp.zeros((repeats, *one), dtype or network.dtype)

    def zeros(width: int) -> tuple[Any, ...]:
        return tuple(
            stack(group.repeats, min(length, kind.span or length), width)
            for group in layer_groups(config)
            for kind in group.kinds
        )

    wide = {place for place in ("attention", "mlp") if getattr(config.convolution, place)}
    inputs = tuple(
        {place: stack(group.repeats, length, config.d_model, heads=1) for place in sorted(wide)}
        for group in layer_groups(config)
        for _ in group.kinds
    )
    tokens_BS, lengths_B = jnp.zeros((batch, length), jnp.int32), jnp.zeros((batch,), jnp.int32)
    limits_B = jnp.full((batch,), length, jnp.int32)
    return KVCache(zeros(widths[0]), zeros(widths[1]), inputs, tokens_BS, lengths_B, limits_B)
