"""Self-attention: projections, query/key norm, rotation, cache. The scores themselves are a kernel's work."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lmx.layers.cache import CacheSlot, Filling, Held
from lmx.layers.names import KEY, QUERY, VALUE, all_named, scope
from lmx.layers.norm import norm, norm_specs
from lmx.layers.rope import rotate
from lmx.params import Init, Param
from lmx.types import Tree


class Context(NamedTuple):
    """What every layer of one forward pass shares.

    positions_BT    int32 within each document, or None where each row is 0..T-1
    segments_BT     int32, or None where each row is one document
    ropes           name -> (cos, sin), each [B, T, 1, pairs]
    filling         where this call's tokens go in the cache, or None without one
    """

    positions: jax.Array | None
    segments: jax.Array | None
    ropes: dict[str, tuple[jax.Array, jax.Array]]
    filling: Filling | None = None


def attention_specs(config: Any, stack: int, matrix: Any, out: Any) -> dict[str, Tree]:
    """Parameters of `stack` layers: query, key, value, out, and biases and norms as configured.

    `matrix(inputs)` and `out(inputs)` give the `Init` of a projection summing over `inputs` elements.
    """
    width, heads, kv, head = config.d_model, config.n_heads, config.n_kv_heads, config.head_dim

    def into(n: int, axis: str) -> Param:
        return Param((stack, width, n, head), ("layers", "embed", axis, "head"), matrix(width), ("embed",))

    specs: dict[str, Tree] = {
        "query": into(heads, "heads"),
        "key": into(kv, "kv_heads"),
        "value": into(kv, "kv_heads"),
        "out": Param(
            (stack, heads, head, width),
            ("layers", "heads", "head", "embed"),
            out(heads * head),
            ("heads", "head"),
        ),
    }
    zeros = Init("zeros")
    if config.attention.qkv_bias:
        specs["query_bias"] = Param((stack, heads, head), ("layers", "heads", "head"), zeros)
        specs["key_bias"] = Param((stack, kv, head), ("layers", "kv_heads", "head"), zeros)
        specs["value_bias"] = Param((stack, kv, head), ("layers", "kv_heads", "head"), zeros)
    if config.attention.out_bias:
        specs["out_bias"] = Param((stack, width), ("layers", "norm"), zeros)
    if config.attention.sinks:
        specs["sinks"] = Param((stack, heads), ("layers", "heads"), zeros)
    if config.attention.qk_norm in ("head", "full") and config.norm.scale != "none":
        per_head = config.attention.qk_norm == "head"
        for name, n in (("query_norm", heads), ("key_norm", kv)):
            specs[name] = norm_specs(
                head if per_head else n * head, "norm", scale=config.norm.scale, bias=False, stack=stack
            )
    return specs


def _qk_norm(x_BTNH: jax.Array, params: Tree, config: Any) -> jax.Array:
    n = config.norm
    knobs: dict[str, Any] = {
        "kind": "rms_norm",
        "epsilon": n.epsilon,
        "scale": n.scale,
        "scale_in": n.scale_in,
    }
    if config.attention.qk_norm == "head_after_rope":
        return norm(x_BTNH, {}, **{**knobs, "scale": "none"})
    if config.attention.qk_norm == "head":
        return norm(x_BTNH, params, **knobs)
    b, t, heads, head = x_BTNH.shape
    return norm(x_BTNH.reshape(b, t, heads * head), params, **knobs).reshape(x_BTNH.shape)


def _growth(positions_BT: jax.Array | None, length: int, temperature: Any) -> jax.Array:
    """float32 [B or 1, T, 1, 1]: the factor of the queries at these positions (Llama 4)."""
    places_BT = jnp.arange(length)[None] if positions_BT is None else positions_BT
    steps = jnp.floor((places_BT.astype(jnp.float32) + 1) / temperature.length)
    return (1 + temperature.slope * jnp.log1p(steps))[:, :, None, None]


def _chunk_segments(segments: jax.Array | int, positions: jax.Array, chunk: int) -> jax.Array:
    """Segments cut into chunks: one number for each document and chunk, 0 still for padding."""
    # Up to 2^16 chunks a document, and as many documents a row, before numbers of neighbours could meet.
    return jnp.where(jnp.asarray(segments) != 0, segments * 65536 + positions // chunk, 0)


def attend(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    *,
    window: int | None,
    chunk: int | None,
    context: Context,
    k_positions_BS: jax.Array | None,
    kernels: Any,
    **knobs: Any,
) -> jax.Array:
    """The kernel's result, given what a query sees: causality, window, chunk, and either documents or a cache.

    `k_positions_BS` are the positions of what a cache holds; None: keys and values are this call's own.
    """
    positions_BT, segments_BT = context.positions, context.segments
    length = q_BTNH.shape[1]
    if k_positions_BS is not None:
        assert positions_BT is not None
        # Slots that are not yet filled lie at positions after every query, so causality hides them.
        masks = {"q_positions_BT": positions_BT, "k_positions_BS": k_positions_BS}
        if chunk is not None:
            masks["q_segments_BT"] = _chunk_segments(1, positions_BT, chunk)
            masks["k_segments_BS"] = _chunk_segments(1, k_positions_BS, chunk)
        return kernels.attention(q_BTNH, k_BSKH, v_BSKH, window=window, **masks, **knobs)
    if chunk is not None and chunk < length:
        if segments_BT is None and positions_BT is None and length % chunk == 0:
            # Chunks are rows of their own, so that nothing between them is computed.
            cut = lambda x: x.reshape(-1, chunk, *x.shape[2:])
            parts = cut(q_BTNH), cut(k_BSKH), cut(v_BSKH)
            o = kernels.attention(*parts, window=window, q_segments_BT=None, k_segments_BS=None, **knobs)
            return o.reshape(*q_BTNH.shape[:2], *o.shape[2:])
        places_BT = jnp.arange(length)[None] if positions_BT is None else positions_BT
        segments_BT = _chunk_segments(1 if segments_BT is None else segments_BT, places_BT, chunk)
    masks = {"q_segments_BT": segments_BT, "k_segments_BS": segments_BT}
    return kernels.attention(q_BTNH, k_BSKH, v_BSKH, window=window, **masks, **knobs)


def _project(
    x_BTD: jax.Array, params: Tree, config: Any, kernels: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries, keys and values; of parameters prepared for decoding, by one product."""
    if "query_key_value" in params:
        heads = (config.n_heads, config.n_kv_heads, config.n_kv_heads)
        whole = kernels.einsum("btd,df->btf", x_BTD, params["query_key_value"])
        parts = jax.lax.split(whole, [n * config.head_dim for n in heads], axis=2)
        q, k, v = (part.reshape(*part.shape[:2], n, -1) for part, n in zip(parts, heads, strict=True))
        return q, k, v
    specs = ("btd,dnh->btnh", "btd,dkh->btkh", "btd,dkh->btkh")
    return kernels.einsums(specs, x_BTD, (params["query"], params["key"], params["value"]))


def attention(
    x_BTD: jax.Array,
    params: Tree,
    *,
    config: Any,
    rope: str,
    window: int | None,
    chunk: int | None,
    context: Context,
    cache: CacheSlot | None,
    kernels: Any,
    shard: Any,
) -> tuple[jax.Array, CacheSlot | None]:
    """Output [B, T, D] in the dtype of `x`, and the cache with this call's keys and values written in place."""
    knobs = config.attention
    q_BTNH, k_BTKH, v_BTKH = _project(x_BTD, params, config, kernels)
    if knobs.qkv_bias:
        q_BTNH = q_BTNH + params["query_bias"]
        k_BTKH = k_BTKH + params["key_bias"]
        v_BTKH = v_BTKH + params["value_bias"]
    # Before norm and rotation, which cost little to do again: so that the products never are.
    q_BTNH, k_BTKH, v_BTKH = all_named((q_BTNH, k_BTKH, v_BTKH), (QUERY, KEY, VALUE))
    if knobs.qk_norm in ("head", "full"):
        q_BTNH = _qk_norm(q_BTNH, params.get("query_norm", {}), config)
        k_BTKH = _qk_norm(k_BTKH, params.get("key_norm", {}), config)
    if rope != "none":
        cos, sin = context.ropes[rope]
        q_BTNH = rotate(q_BTNH, cos, sin, config.position.ropes[rope].layout)
        k_BTKH = rotate(k_BTKH, cos, sin, config.position.ropes[rope].layout)
        if knobs.qk_norm == "head_after_rope":
            q_BTNH, k_BTKH = _qk_norm(q_BTNH, {}, config), _qk_norm(k_BTKH, {}, config)
    elif knobs.temperature is not None:
        q_BTNH = q_BTNH * _growth(context.positions, q_BTNH.shape[1], knobs.temperature).astype(q_BTNH.dtype)
    q_BTNH = shard(q_BTNH, ("batch", "length", "act_heads", None))
    k_BTKH = shard(k_BTKH, ("batch", "length", "act_kv_heads", None))
    v_BTKH = shard(v_BTKH, ("batch", "length", "act_kv_heads", None))

    held = Held(k_BTKH, v_BTKH, None)
    if cache is not None:
        assert context.filling is not None
        cache, held = cache.write(context.filling, k_BTKH, v_BTKH)
    o_BTNH = attend(
        q_BTNH,
        held.keys.astype(q_BTNH.dtype),
        held.values.astype(q_BTNH.dtype),
        window=window,
        chunk=chunk,
        context=context,
        k_positions_BS=held.positions,
        kernels=kernels,
        softcap=knobs.softcap,
        scale=knobs.scale or config.head_dim**-0.5,
        **({"sinks_N": params["sinks"]} if knobs.sinks else {}),
    )
    return project_out(o_BTNH, params, config=config, kernels=kernels, shard=shard), cache


def project_out(o_BTNH: jax.Array, params: Tree, *, config: Any, kernels: Any, shard: Any) -> jax.Array:
    """Heads back to the residual stream, [B, T, D]."""
    o_BTNH = shard(o_BTNH, ("batch", "length", "act_heads", None))
    with scope("out"):
        y_BTD = kernels.einsum("btnh,nhd->btd", o_BTNH, params["out"])
    return y_BTD + params["out_bias"] if config.attention.out_bias else y_BTD
