"""Multi-head latent attention (arXiv:2405.04434, section 2.1): keys and values from one narrow vector a token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lmx.layers.attention import Context, attend, project_out
from lmx.layers.cache import CacheSlot
from lmx.layers.names import KEY, LATENT, QUERY, VALUE, all_named, named
from lmx.layers.norm import norm, norm_specs
from lmx.layers.rope import rotate
from lmx.params import Init, Param
from lmx.types import Tree


def latent_specs(config: Any, stack: int, matrix: Any, out: Any) -> dict[str, Tree]:
    """Parameters of `stack` layers.

    query_down, query_norm  compression of the queries, where there is one
    query                   to all heads, from the compressed vector or from the residual stream
    latent_down, latent_norm, key_rope    to the vector that is kept, and to the rotated part of the key
    key_value               from that vector to each head's unrotated part of the key, and its value
    out                     back to the residual stream
    """
    latent, width, heads = config.attention.latent, config.d_model, config.n_heads
    rank, plain = latent.key_value_rank, config.head_dim - latent.rope_dim

    def down(size: int, axis: str) -> Param:
        return Param((stack, width, size), ("layers", "embed", axis), matrix(width), ("embed",))

    def up(inputs: int, axis: str, size: int) -> Param:
        return Param((stack, inputs, heads, size), ("layers", axis, "heads", "head"), matrix(inputs), (axis,))

    def scale(size: int) -> dict[str, Param]:
        return norm_specs(size, "norm", scale="weight", bias=False, stack=stack)

    specs: dict[str, Tree] = {
        "latent_down": down(rank, "latent_out"),
        "latent_norm": scale(rank),
        "key_rope": down(latent.rope_dim, "head"),
        "key_value": up(rank, "latent", plain + latent.value_dim),
        "out": Param(
            (stack, heads, latent.value_dim, width),
            ("layers", "heads", "head", "embed"),
            out(heads * latent.value_dim),
            ("heads", "head"),
        ),
    }
    biases = {"latent_down_bias": rank, "key_rope_bias": latent.rope_dim}
    if latent.query_rank:
        specs |= {"query_down": down(latent.query_rank, "latent_out"), "query_norm": scale(latent.query_rank)}
        specs["query"] = up(latent.query_rank, "latent", config.head_dim)
        biases["query_down_bias"] = latent.query_rank
    else:
        specs["query"] = up(width, "embed", config.head_dim)
    if config.attention.qkv_bias:
        specs |= {
            name: Param((stack, size), ("layers", "norm"), Init("zeros")) for name, size in biases.items()
        }
    if config.attention.out_bias:
        specs["out_bias"] = Param((stack, width), ("layers", "norm"), Init("zeros"))
    if config.attention.sinks:
        specs["sinks"] = Param((stack, heads), ("layers", "heads"), Init("zeros"))
    return specs


def latent_attention(
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
    """As `lmx.layers.attention.attention`.

    One token at a time, queries are taken to the compressed space and meet the cached vectors there, as heads that
    share one key and value (arXiv:2405.04434, appendix C): no key or value of the past is made anew.
    """
    latent = config.attention.latent
    plain = config.head_dim - latent.rope_dim
    q_BTNH = named(_queries(x_BTD, params, config, kernels), QUERY)
    kept_BTR, turned_BTH = kernels.einsums(
        ("btd,dr->btr", "btd,dh->bth"), x_BTD, (params["latent_down"], params["key_rope"])
    )
    if config.attention.qkv_bias:
        kept_BTR, turned_BTH = kept_BTR + params["latent_down_bias"], turned_BTH + params["key_rope_bias"]
    kept_BTR = named(_norm(kept_BTR, params["latent_norm"], config), LATENT)
    q_plain, q_turned, k_turned = q_BTNH[..., :plain], q_BTNH[..., plain:], turned_BTH[:, :, None]
    if rope != "none":
        cos, sin = context.ropes[rope]
        q_turned, k_turned = (
            rotate(x, cos, sin, config.position.ropes[rope].layout) for x in (q_turned, k_turned)
        )
    kept_BS1C, k_positions_BS = jnp.concatenate([kept_BTR[:, :, None], k_turned], axis=-1), None
    if cache is not None:
        assert context.filling is not None
        cache, held = cache.write(context.filling, kept_BS1C, kept_BS1C)
        kept_BS1C, k_positions_BS = held.keys.astype(x_BTD.dtype), held.positions

    def run(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        sinks = {"sinks_N": params["sinks"]} if config.attention.sinks else {}
        scale = config.attention.scale or config.head_dim**-0.5
        where = {
            "window": window,
            "chunk": chunk,
            "context": context,
            "k_positions_BS": k_positions_BS,
        }
        return attend(
            q, k, v, kernels=kernels, softcap=config.attention.softcap, scale=scale, **where, **sinks
        )

    key_value_RNH = params["key_value"]
    if cache is not None and x_BTD.shape[1] == 1:
        o_BTNH = _compressed(run, q_plain, q_turned, kept_BS1C, key_value_RNH)
    else:
        o_BTNH = _expanded(run, q_plain, q_turned, kept_BS1C, key_value_RNH, kernels=kernels, shard=shard)
    return project_out(o_BTNH, params, config=config, kernels=kernels, shard=shard), cache


def _compressed(
    run: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    q_plain: jax.Array,
    q_turned: jax.Array,
    kept_BS1C: jax.Array,
    key_value_RNH: jax.Array,
) -> jax.Array:
    """Attention in the compressed space: its output [B, T, N, H] as the heads would have it."""
    rank, plain = key_value_RNH.shape[0], q_plain.shape[-1]
    key_RNH, value_RNH = key_value_RNH[..., :plain], key_value_RNH[..., plain:]
    q_BTNR = jnp.einsum("btnh,rnh->btnr", q_plain, key_RNH)
    o_BTNR = run(jnp.concatenate([q_BTNR, q_turned], axis=-1), kept_BS1C, kept_BS1C[..., :rank])
    return jnp.einsum("btnr,rnh->btnh", o_BTNR, value_RNH)


def _expanded(
    run: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    q_plain: jax.Array,
    q_turned: jax.Array,
    kept_BS1C: jax.Array,
    key_value_RNH: jax.Array,
    *,
    kernels: Any,
    shard: Any,
) -> jax.Array:
    """Attention with a key and a value of each head, made from the compressed vectors; their turned part is one."""
    rank, plain = key_value_RNH.shape[0], q_plain.shape[-1]
    both_BSNH = kernels.einsum("bsr,rnh->bsnh", kept_BS1C[:, :, 0, :rank], key_value_RNH)
    k_BSNH, v_BSNH = all_named((both_BSNH[..., :plain], both_BSNH[..., plain:]), (KEY, VALUE))
    same = jnp.broadcast_to(kept_BS1C[..., rank:], (*k_BSNH.shape[:3], q_turned.shape[-1]))
    heads = ("batch", "length", "act_heads", None)
    q = shard(jnp.concatenate([q_plain, q_turned], axis=-1), heads)
    return run(q, shard(jnp.concatenate([k_BSNH, same], axis=-1), heads), shard(v_BSNH, heads))


def _norm(x: jax.Array, params: Tree, config: Any) -> jax.Array:
    epsilon, scale_in = config.attention.latent.epsilon, config.norm.scale_in
    return norm(x, params, kind="rms_norm", epsilon=epsilon, scale="weight", scale_in=scale_in)


def _queries(x_BTD: jax.Array, params: Tree, config: Any, kernels: Any) -> jax.Array:
    if config.attention.latent.query_rank is None:
        return kernels.einsum("btd,dnh->btnh", x_BTD, params["query"])
    x_BTR = kernels.einsum("btd,dr->btr", x_BTD, params["query_down"])
    if config.attention.qkv_bias:
        x_BTR = x_BTR + params["query_down_bias"]
    return kernels.einsum("btr,rnh->btnh", _norm(x_BTR, params["query_norm"], config), params["query"])
