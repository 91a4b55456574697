"""Self-attention: projections, query/key norm, rotation, cache. The scores themselves are a kernel's work."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lmx.layers.norm import norm, norm_specs
from lmx.layers.rope import rotate
from lmx.params import Init, Param
from lmx.types import Tree


class Context(NamedTuple):
    """What every layer of one forward pass shares.

    positions_BT    int32, or None where each row is 0..T-1 (a kernel then skips what causality hides)
    segments_BT     int32, or None where each row is one document
    ropes           name -> (cos, sin), each [B, T, 1, pairs]
    """

    positions: jax.Array | None
    segments: jax.Array | None
    ropes: dict[str, tuple[jax.Array, jax.Array]]


class CacheSlot(NamedTuple):
    """The stacked cache of a group of layers, and which of them is meant: keys, values [L, B, S, K, H]."""

    keys: jax.Array
    values: jax.Array
    layer: jax.Array | int


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
    if config.attention.qk_norm != "none" and config.norm.scale != "none":
        per_head = config.attention.qk_norm == "head"
        for name, n in (("query_norm", heads), ("key_norm", kv)):
            specs[name] = norm_specs(
                head if per_head else n * head, "norm", scale=config.norm.scale, bias=False, stack=stack
            )
    return specs


def _qk_norm(x_BTNH: jax.Array, params: Tree, config: Any) -> jax.Array:
    n = config.norm
    knobs = {"kind": "rms_norm", "epsilon": n.epsilon, "scale": n.scale, "scale_in": n.scale_in}
    if config.attention.qk_norm == "head":
        return norm(x_BTNH, params, **knobs)
    b, t, heads, head = x_BTNH.shape
    return norm(x_BTNH.reshape(b, t, heads * head), params, **knobs).reshape(x_BTNH.shape)


def attention(
    x_BTD: jax.Array,
    params: Tree,
    *,
    config: Any,
    rope: str,
    window: int | None,
    context: Context,
    cache: CacheSlot | None,
    kernels: Any,
    shard: Any,
) -> tuple[jax.Array, CacheSlot | None]:
    """Output [B, T, D] in the dtype of `x`, and the cache with this call's keys and values written in place."""
    q_BTNH, k_BTKH, v_BTKH = kernels.einsums(
        ("btd,dnh->btnh", "btd,dkh->btkh", "btd,dkh->btkh"),
        x_BTD,
        (params["query"], params["key"], params["value"]),
    )
    if config.attention.qkv_bias:
        q_BTNH = q_BTNH + params["query_bias"]
        k_BTKH = k_BTKH + params["key_bias"]
        v_BTKH = v_BTKH + params["value_bias"]
    if config.attention.qk_norm != "none":
        q_BTNH = _qk_norm(q_BTNH, params.get("query_norm", {}), config)
        k_BTKH = _qk_norm(k_BTKH, params.get("key_norm", {}), config)
    if rope != "none":
        cos, sin = context.ropes[rope]
        q_BTNH = rotate(q_BTNH, cos, sin, config.position.ropes[rope].layout)
        k_BTKH = rotate(k_BTKH, cos, sin, config.position.ropes[rope].layout)
    q_BTNH = shard(q_BTNH, ("batch", "length", "act_heads", None))
    k_BTKH = shard(k_BTKH, ("batch", "length", "act_kv_heads", None))
    v_BTKH = shard(v_BTKH, ("batch", "length", "act_kv_heads", None))

    masks: dict[str, Any] = {"q_segments_BT": context.segments, "k_segments_BS": context.segments}
    k_BSKH, v_BSKH = k_BTKH, v_BTKH
    if cache is not None:
        assert context.positions is not None
        rows = jnp.arange(x_BTD.shape[0])[:, None]
        at = (cache.layer, rows, context.positions)
        keys = cache.keys.at[at].set(k_BTKH.astype(cache.keys.dtype))
        values = cache.values.at[at].set(v_BTKH.astype(cache.values.dtype))
        cache = CacheSlot(keys, values, cache.layer)
        k_BSKH, v_BSKH = keys[cache.layer], values[cache.layer]
        # Slots that are not yet filled lie at positions after every query, so causality hides them.
        masks = {
            "q_positions_BT": context.positions,
            "k_positions_BS": jnp.broadcast_to(jnp.arange(k_BSKH.shape[1]), k_BSKH.shape[:2]),
        }
    o_BTNH = kernels.attention(
        q_BTNH,
        k_BSKH.astype(q_BTNH.dtype),
        v_BSKH.astype(q_BTNH.dtype),
        window=window,
        softcap=config.attention.softcap,
        scale=config.attention.scale or config.head_dim**-0.5,
        **masks,
    )
    o_BTNH = shard(o_BTNH, ("batch", "length", "act_heads", None))
    y_BTD = kernels.einsum("btnh,nhd->btd", o_BTNH, params["out"])
    if config.attention.out_bias:
        y_BTD = y_BTD + params["out_bias"]
    return y_BTD, cache
