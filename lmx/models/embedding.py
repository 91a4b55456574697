"""What goes into the layers: embeddings of tokens and places, and the tables of rotary positions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmx.layers import rope as rope_kinds
from lmx.layers.convolution import mix
from lmx.models.config import Decoder
from lmx.models.network import RESIDUAL, Network, dropout
from lmx.models.position import Rope
from lmx.types import KVCache, Tree


def embed(
    network: Network,
    params: Tree,
    tokens_BT: jax.Array,
    positions_BT: jax.Array | None,
    cache: KVCache | None,
    key: jax.Array | None,
) -> jax.Array:
    """[B, T, D]: each token's embedding, mixed, scaled, placed and normed as configured."""
    config, dtype = network.config, network.dtype
    x_BTD = network.shard.looked_up(params["tokens"][tokens_BT].astype(dtype))
    if config.convolution.embedding:
        weights_CD = params["convolution"].astype(dtype)
        if cache is None:
            x_BTD = mix(x_BTD, weights_CD, positions_BT)
        else:
            x_BTD = _mix_held(x_BTD, params["tokens"], weights_CD, positions_BT, cache)
    if config.embedding_scale == "sqrt_d_model":
        x_BTD = x_BTD * jnp.asarray(config.d_model**0.5, dtype)
    if config.position.learned:
        table = params["positions"].astype(dtype)
        x_BTD = x_BTD + (table[: tokens_BT.shape[1]][None] if positions_BT is None else table[positions_BT])
    if config.embedding_norm:
        x_BTD = network.norm(x_BTD, params.get("norm", {}))
    return network.shard(dropout(x_BTD, config.dropout, key), RESIDUAL)


def _mix_held(
    x_BTD: jax.Array, table_VD: jax.Array, weights_CD: jax.Array, positions_BT: Any, cache: KVCache
) -> jax.Array:
    """The convolution of the embeddings where the earlier tokens are those of a cache."""
    for back, weight_D in enumerate(weights_CD, start=1):
        earlier_BT = jnp.take_along_axis(cache.tokens, jnp.maximum(positions_BT - back, 0), axis=1)
        before_BTD = jnp.where((positions_BT >= back)[..., None], table_VD[earlier_BT], 0)
        x_BTD = x_BTD + before_BTD.astype(x_BTD.dtype) * weight_D
    return x_BTD


def rope_frequencies(
    rope: Rope, rope_dim: int, length: rope_kinds.Length
) -> tuple[rope_kinds.Frequencies, float]:
    """Radians a position of each pair and the factor of cos and sin, scaled for a sequence of `length` tokens."""
    inv = rope_kinds.frequencies(rope_dim, theta=rope.theta, fraction=rope.fraction)
    return (inv, 1.0) if rope.scaling is None else rope.scaling.scale(inv, rope.theta, length)


def rope_tables(
    config: Decoder,
    n_tokens: int,
    positions_BT: jax.Array | None,
    segments_BT: jax.Array | None,
    limits_B: jax.Array | None,
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """(cos, sin) of each rope that a layer uses. `limits`: how long the rows of a cache are."""
    used = {name: config.position.ropes[name] for name in sorted(set(config.position.pattern) - {"none"})}
    # Constants while they are short; a program should not carry the tables of 100,000 positions along.
    known = np if n_tokens <= 4096 else jnp
    places_BT = known.arange(n_tokens)[None] if positions_BT is None else positions_BT
    length: rope_kinds.Length = n_tokens
    if positions_BT is not None and any(r.scaling and r.scaling.by_length for r in used.values()):
        length = rope_kinds.own_lengths(positions_BT, segments_BT) if limits_B is None else limits_B[:, None]
    return {
        name: rope_kinds.tables(places_BT, *rope_frequencies(rope, config.rope_dim, length))
        for name, rope in used.items()
    }
