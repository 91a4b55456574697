"""Mixture of experts (arXiv:1701.06538): each token goes through the MLPs that a router chooses for it.

Without a capacity nothing is dropped: tokens are put in the order of their experts and multiplied group by group (see
`lmx.layers.grouped`), however uneven the groups are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lmx.layers.capacity import capacity, keep
from lmx.layers.experts import Chosen, through_experts
from lmx.layers.mlp import mlp, mlp_specs
from lmx.layers.names import scope
from lmx.params import Init, Param
from lmx.types import Tree


class Routing(NamedTuple):
    """Which experts each token goes through, and what the router thought; J choices a token.

    experts_BTJ  int32
    weights_BTJ  float32, factor of each chosen expert's output (or input)
    logits_BTE   float32
    scores_BTE   float32, softmax or sigmoid of the logits
    """

    experts: jax.Array
    weights: jax.Array
    logits: jax.Array
    scores: jax.Array


def moe_specs(config: Any, stack: int, matrix: Any, out: Any) -> dict[str, Tree]:
    """Parameters of `stack` layers: router, experts (an MLP with one more axis), shared (an MLP)."""
    moe, width = config.moe, config.d_model
    shape = (stack, width, moe.n_experts)
    router = {"weight": Param(shape, ("layers", "embed", "router"), matrix(width), ("embed",))}
    if moe.router.bias != "none":
        name = "bias" if moe.router.bias == "logits" else "choice_bias"
        router[name] = Param((stack, moe.n_experts), ("layers", "router"), Init("zeros"))
    specs: dict[str, Tree] = {
        "router": router,
        "experts": mlp_specs(config, moe.d_ff, (stack, moe.n_experts), matrix, out),
    }
    if moe.shared_d_ff:
        specs["shared"] = mlp_specs(config, moe.shared_d_ff, (stack,), matrix, out)
    return specs


def _open(scores_BTE: jax.Array, groups: Any) -> jax.Array:
    """`scores` with -inf for the experts of groups that are not among a token's best."""
    *rows, e = scores_BTE.shape
    grouped = scores_BTE.reshape(*rows, groups.n, e // groups.n)
    best = jax.lax.top_k(grouped, 1 if groups.score == "max" else 2)[0].sum(-1)
    chosen = jax.nn.one_hot(jax.lax.top_k(best, groups.chosen)[1], groups.n, dtype=bool).any(-2)
    return jnp.where(chosen[..., None], grouped, -jnp.inf).reshape(*rows, e)


def route(x_BTD: jax.Array, params: Tree, moe: Any) -> Routing:
    """The choice of each token, in float32 whatever the dtype of `x`. `params` holds the router's, uncast."""
    router = moe.router
    f32 = lambda w: w.astype(jnp.float32)
    logits_BTE = jnp.dot(f32(x_BTD), f32(params["weight"]), preferred_element_type=jnp.float32)
    if router.bias == "logits":
        logits_BTE = logits_BTE + f32(params["bias"])
    scores_BTE = jax.nn.softmax(logits_BTE) if router.scores == "softmax" else jax.nn.sigmoid(logits_BTE)
    choice_BTE = jax.lax.stop_gradient(scores_BTE)
    if router.bias == "choice":
        choice_BTE = choice_BTE + jax.lax.stop_gradient(f32(params["choice_bias"]))
    if router.groups is not None:
        choice_BTE = _open(choice_BTE, router.groups)
    experts_BTJ = jax.lax.top_k(choice_BTE, moe.top_k)[1]
    weights_BTJ = jnp.take_along_axis(scores_BTE, experts_BTJ, axis=-1)
    if router.normalise:
        weights_BTJ = weights_BTJ / (weights_BTJ.sum(-1, keepdims=True) + 1e-20)
    return Routing(experts_BTJ, weights_BTJ * router.scale, logits_BTE, scores_BTE)


def _sums(
    routing: Routing,
    moe: Any,
    counted_BT: jax.Array | None,
    kept_BTJ: jax.Array | None,
    over_BT: jax.Array | None,
) -> dict[str, jax.Array]:
    """Sums over tokens, those of padding left out, from which loads and losses are made (`lmx.layers.balance`).

    choices_E   int32, how often each expert was chosen
    dropped     int32 [], choices without room; absent without a capacity
    overflow    int32 [], choices without room between devices; absent where all that can come has room
    tokens      float32 []
    scores_E    float32, the scores' share of each expert; absent without a balance loss
    z           float32 [], squared log-sum-exp of the logits; absent without a z-loss
    """
    each_BT = jnp.ones(routing.logits.shape[:2], bool) if counted_BT is None else counted_BT
    weight_BT = each_BT.astype(jnp.float32)
    chosen_BTE = (routing.experts[..., None] == jnp.arange(moe.n_experts)).any(-2) & each_BT[..., None]
    sums = {"choices": chosen_BTE.sum((0, 1), jnp.int32), "tokens": weight_BT.sum()}
    if kept_BTJ is not None:
        sums["dropped"] = (each_BT[..., None] & ~kept_BTJ).sum(dtype=jnp.int32)
    if over_BT is not None:
        sums["overflow"] = jnp.where(each_BT, over_BT, 0).sum(dtype=jnp.int32)
    if moe.balance_loss:
        share_BTE = routing.scores / (routing.scores.sum(-1, keepdims=True) + 1e-20)
        sums["scores"] = jnp.einsum("bt,bte->e", weight_BT, share_BTE)
    if moe.z_loss:
        sums["z"] = (weight_BT * jnp.square(jax.nn.logsumexp(routing.logits, axis=-1))).sum()
    return sums


def moe(
    x_BTD: jax.Array,
    params: Tree,
    *,
    config: Any,
    segments_BT: jax.Array | None,
    cached: bool = False,
    kernels: Any,
    shard: Any,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Output [B, T, D] in the dtype of `x`, and this layer's `_sums`. With a cache nothing is dropped."""
    moe = config.moe
    with scope("router"):
        routing = route(x_BTD, params["router"], moe)
    experts_BTJ, weights_BTJ = routing.experts, routing.weights.astype(x_BTD.dtype)
    room, kept_BTJ = None, None
    if moe.capacity_factor is not None and not cached:
        room = capacity(moe.capacity_factor, x_BTD.shape[1], top_k=moe.top_k, n_experts=moe.n_experts)
        kept_BTJ = keep(experts_BTJ, moe.n_experts, room)
        experts_BTJ = jnp.where(kept_BTJ, experts_BTJ, moe.n_experts)
    chosen = Chosen(x_BTD, experts_BTJ, weights_BTJ)
    knobs = {"config": config, "kernels": kernels, "shard": shard, "room": room, "bounded": not cached}
    with scope("experts"):
        y_BTD, over_BT = through_experts(chosen, params["experts"], **knobs)
    y_BTD = shard(y_BTD, ("batch", "length", "act_embed"))
    if moe.shared_d_ff:
        with scope("shared"):
            y_BTD = y_BTD + mlp(x_BTD, params["shared"], config=config, kernels=kernels, shard=shard)
    counted_BT = None if segments_BT is None else segments_BT != 0
    return y_BTD, _sums(routing, moe, counted_BT, kept_BTJ, over_BT)
