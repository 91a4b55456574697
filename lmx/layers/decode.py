"""One query a row against a cache, in a form that suits XLA's CPU back end (jaxlib 0.10).

A batched product whose left factor is contracted over any but its last dimension runs as a plain loop on one core: the
values of a cache are one. A product and a sum, which the compiler fuses, is several times faster.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lmx.layers.scores import HIDDEN, mask


def attention(
    q_B1NH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    *,
    q_positions_BT: jax.Array,
    k_positions_BS: jax.Array,
    q_segments_BT: jax.Array | None,
    k_segments_BS: jax.Array | None,
    sinks_N: jax.Array | None,
    window: int | None,
    softcap: float | None,
    scale: float,
) -> jax.Array:
    """As `lmx.layers.scores.dot_product`, for one query a row: [B, 1, N, H']."""
    b, _, n, h = q_B1NH.shape
    kv = k_BSKH.shape[2]
    seen_BTS = mask(
        q_positions_BT,
        k_positions_BS,
        q_segments_BT=q_segments_BT,
        k_segments_BS=k_segments_BS,
        window=window,
    )
    q_BKGH = q_B1NH.reshape(b, kv, n // kv, h)
    scores = jnp.einsum("bkgh,bskh->bkgs", q_BKGH, k_BSKH, preferred_element_type=jnp.float32) * scale
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    seen = seen_BTS[:, None]
    scores = jnp.where(seen, scores, HIDDEN)
    top = scores.max(-1, keepdims=True)
    sinks = None if sinks_N is None else sinks_N.astype(jnp.float32).reshape(1, kv, n // kv, 1)
    top = top if sinks is None else jnp.maximum(top, sinks)
    weights = jnp.where(seen, jnp.exp(scores - top), 0.0)
    total = weights.sum(-1, keepdims=True)
    total = jnp.maximum(total, 1e-30) if sinks is None else total + jnp.exp(sinks - top)
    v_BK1SH = v_BSKH.astype(jnp.float32).transpose(0, 2, 1, 3)[:, :, None]
    o_BKGH = jnp.sum(weights[..., None] * v_BK1SH, axis=3) / total
    return o_BKGH.reshape(b, 1, n, v_BSKH.shape[-1]).astype(v_BSKH.dtype)
