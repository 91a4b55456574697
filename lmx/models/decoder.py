"""The decoder's forward pass: embedding, a loop over blocks of attention and MLP, last norm.

Layers are stacked by their place in the repeating period (see `lmx.models.specs`); the loop goes over periods,
scanned or unrolled.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lmx.layers import balance
from lmx.layers.attention import Context, attention
from lmx.layers.cache import CacheSlot
from lmx.layers.convolution import convolve
from lmx.layers.kernels import KernelSet
from lmx.layers.latent import latent_attention
from lmx.layers.loss import Head
from lmx.layers.mlp import mlp
from lmx.layers.moe import moe
from lmx.layers.names import ATTENTION_OUT, BLOCK_INPUT, MLP_OUT, named, scope
from lmx.models import narrow, pipeline
from lmx.models.caches import cache_shardings, filling_of, init_cache, slot_of
from lmx.models.config import Decoder
from lmx.models.embedding import embed, rope_tables
from lmx.models.flops import decoder_flops
from lmx.models.model import Model, Output
from lmx.models.network import RESIDUAL, Network, dropout
from lmx.models.precision import formats_of, marked
from lmx.models.remat import rematerialised
from lmx.models.specs import Group, Kind, decoder_specs, layer_groups
from lmx.sharding import Shard
from lmx.types import KVCache, Tree

Aux = dict[str, jax.Array]
_INSIDE = ("batch", "length", "act_embed")  # what attention and MLP read


def build(config: Decoder, *, compute_dtype: jnp.dtype, kernels: KernelSet, shard: Shard) -> Model:
    """The decoder that `config` describes, computing in `compute_dtype` from parameters of any dtype."""
    specs = decoder_specs(config)
    network = Network(config, compute_dtype, kernels, shard, formats_of(kernels.precision, specs))
    if (plan := pipeline.schedule(shard)) is not None:
        for group in layer_groups(config):
            pipeline.check(plan, group.repeats, config.n_layers)
    return Model(
        specs=specs,
        forward=partial(_forward, network),
        head=partial(_head, network),
        init_cache=partial(init_cache, network),
        flops=lambda length: decoder_flops(config, length),
        config=config,
        settle=partial(_settle, config) if config.moe else None,
        cache_shardings=partial(cache_shardings, network),
    )


def _forward(
    network: Network,
    params: Tree,
    tokens_BT: jax.Array,
    positions_BT: jax.Array | None = None,
    *,
    segments_BT: jax.Array | None = None,
    cache: KVCache | None = None,
    dropout_key: jax.Array | None = None,
) -> Output:
    """See `Model`. Positions default to 0..T-1; with a cache they are those after what it holds."""
    groups = layer_groups(network.config)
    filling = None
    if cache is not None:
        assert positions_BT is None, "a cache knows its positions"
        filling = filling_of(cache, tokens_BT, segments_BT)
        positions_BT, segments_BT = cache.lengths[:, None] + jnp.arange(tokens_BT.shape[1])[None], None
        rows = jnp.arange(tokens_BT.shape[0])[:, None]
        cache = cache._replace(tokens=cache.tokens.at[rows, positions_BT].set(tokens_BT))
    keys = (None, None) if dropout_key is None else tuple(jax.random.split(dropout_key))
    with scope("embedding"):
        x_BTD = embed(network, params["embedding"], tokens_BT, positions_BT, cache, keys[0])
    limits_B = None
    if cache is not None and filling is not None:
        limits_B = jnp.maximum(cache.limits, cache.lengths + filling.counts)
    ropes = rope_tables(network.config, tokens_BT.shape[1], positions_BT, segments_BT, limits_B)
    context = Context(positions_BT, segments_BT, ropes, filling)
    filled: list[CacheSlot] = []
    aux: list[Aux] = []
    for g, group in enumerate(groups):
        places = range(group.first, group.first + len(group.kinds))
        slots = None if cache is None else [slot_of(cache, i) for i in places]
        key = None if keys[1] is None else jax.random.fold_in(keys[1], g)
        # With a cache there is nothing to train, and prepared weights are of another form.
        formats = network.formats if cache is None else {}
        stacks = [marked(formats, i, params["layers"][i]) for i in places]
        x_BTD, slots, more = _group(network, x_BTD, stacks, group, context, slots, key)
        filled += slots or []
        aux += more
    if cache is not None:
        held = {name: tuple(getattr(s, name) for s in filled) for name in ("keys", "values", "inputs")}
        assert filling is not None
        cache = cache._replace(**held, lengths=cache.lengths + filling.counts)
    with scope("final_norm"):
        hidden_BTD = network.norm(x_BTD, params["final_norm"])
    return Output(hidden_BTD, cache, _gathered(network.config, aux))


def _gathered(config: Decoder, aux: list[Aux]) -> Aux:
    """What the layers counted, of each group and place stacked [L, ...], as the losses and counts of `Output`."""
    parts: dict[str, list[jax.Array]] = {}
    for layers in aux:
        for name, values in layers.items():
            parts.setdefault(name, []).append(values)
    sums = {name: jnp.concatenate(values) for name, values in parts.items()}
    if not sums:
        return {}
    counts = {f"count/{name}": sums[name] for name in ("choices", "dropped", "overflow") if name in sums}
    return balance.losses(sums, config.moe) | counts


def _settle(config: Decoder, before: Tree, after: Tree, counts: Aux) -> tuple[Tree, Aux]:
    """See `Model.settle`: the routers' biases move by the loads of their experts alone."""
    assert config.moe is not None
    sums = {name.removeprefix("count/"): value for name, value in counts.items()}
    stacks, first = [], 0
    for old, new in zip(before["layers"], after["layers"], strict=True):
        if "moe" in new:
            router = dict(new["moe"]["router"])
            n = router["weight"].shape[0]
            if "choice_bias" in router:
                choices_LE = sums["choices"][first : first + n]
                bias_LE = old["moe"]["router"]["choice_bias"]
                router["choice_bias"] = balance.moved(
                    bias_LE, choices_LE, config.moe.router.bias_update_speed
                )
            new, first = new | {"moe": new["moe"] | {"router": router}}, first + n
        stacks.append(new)
    return after | {"layers": stacks}, balance.statistics(sums)


def _group(
    network: Network,
    x_BTD: jax.Array,
    stacks: list[Tree],
    group: Group,
    context: Context,
    cache: list[CacheSlot] | None,
    key: jax.Array | None,
) -> tuple[jax.Array, list[CacheSlot] | None, list[Aux]]:
    """All layers of a group, in the stages of a pipeline where there is one (not with a cache)."""
    plan = pipeline.schedule(network.shard)
    if plan is None or cache is not None:
        return _layers(network, x_BTD, stacks, group, context, cache, key)
    inside = network._replace(shard=network.shard.inside_stages())
    part = group._replace(repeats=group.repeats // plan.blocks)

    def stage(
        stacks: list[Tree], x_BTD: jax.Array, context: Context, key: Any
    ) -> tuple[jax.Array, list[Aux]]:
        x_BTD, _, aux = _layers(inside, x_BTD, stacks, part, context, None, key)
        return x_BTD, aux

    x_BTD, aux = pipeline.run(stage, stacks, x_BTD, context, key, shard=network.shard)
    return network.shard(x_BTD, RESIDUAL), None, aux


def _layers(
    network: Network,
    x_BTD: jax.Array,
    stacks: list[Tree],
    group: Group,
    context: Context,
    cache: list[CacheSlot] | None,
    key: jax.Array | None,
) -> tuple[jax.Array, list[CacheSlot] | None, list[Aux]]:
    """Layers one after another. The cache goes along in the carry, so that it is updated in place."""
    config = network.config
    scanned_over = config.layer_loop == "scan" and group.repeats > 1

    def body(x_BTD: jax.Array, params: Any, slots: Any, i: Any) -> tuple[jax.Array, Any, list[Aux]]:
        if scanned_over:
            kept, carriers = params
            params = narrow.together(kept, carriers, i)
        slots = [s._replace(layer=i) for s in slots] if slots else None
        period_key = None if key is None else jax.random.fold_in(key, i)
        return _period(network, x_BTD, params, group, context, slots, period_key)

    if cache is None:
        body = rematerialised(body, config.remat, scanned=scanned_over)
    if not scanned_over:
        layers = [_unstack(stack) for stack in stacks]
        each = []
        for i in range(group.repeats):
            x_BTD, cache, aux = body(x_BTD, [stack[i] for stack in layers], cache, i)
            each.append(aux)
        return x_BTD, cache, jax.tree.map(lambda *parts: jnp.stack(parts), *each)

    kept, carriers = narrow.apart(stacks, network.dtype)

    def scanned(carry: tuple, inputs: tuple) -> tuple[tuple, list[Aux]]:
        x_BTD, slots, aux = body(carry[0], inputs[0], carry[1], inputs[1])
        return (x_BTD, [s._replace(layer=0) for s in slots] if slots else None), aux

    (x_BTD, cache), aux = jax.lax.scan(scanned, (x_BTD, cache), ((kept, carriers), jnp.arange(group.repeats)))
    return x_BTD, cache, aux


def _period(
    network: Network,
    x_BTD: jax.Array,
    layers: list[Tree],
    group: Group,
    context: Context,
    cache: list[CacheSlot] | None,
    key: jax.Array | None,
) -> tuple[jax.Array, list[CacheSlot] | None, list[Aux]]:
    slots, each = [], []
    for i, (kind, params) in enumerate(zip(group.kinds, layers, strict=True)):
        layer_key = None if key is None else jax.random.fold_in(key, i)
        slot = cache[i] if cache else None
        with scope(f"layers.{group.first + i}"):
            x_BTD, slot, aux = _block(network, x_BTD, params, kind, context, slot, layer_key)
        slots.append(slot)
        each.append(aux)
    return x_BTD, slots if cache else None, each


def _block(
    network: Network,
    x_BTD: jax.Array,
    params: Tree,
    kind: Kind,
    context: Context,
    cache: CacheSlot | None,
    key: jax.Array | None,
) -> tuple[jax.Array, CacheSlot | None, Aux]:
    config, kernels, shard = network.config, network.kernels, network.shard
    router = params["moe"]["router"] if kind.feed_forward == "moe" else None
    params = jax.tree.map(lambda w: w.astype(network.dtype), params)
    keys = (None, None) if key is None else tuple(jax.random.split(key))

    def maybe_norm(x: jax.Array, name: str, place: str) -> jax.Array:
        with scope(name):
            return network.norm(x, params.get(name, {})) if config.norm.placement in (place, "both") else x

    def mixed(x: jax.Array, place: str, cache: CacheSlot | None) -> tuple[jax.Array, CacheSlot | None]:
        weights = params.get(f"{place}_convolution")
        return (x, cache) if weights is None else convolve(x, weights, place, context=context, cache=cache)

    attend = latent_attention if config.attention.latent else attention
    x_BTD = named(x_BTD, BLOCK_INPUT)
    h_BTD, cache = mixed(shard(maybe_norm(x_BTD, "attention_norm", "pre"), _INSIDE), "attention", cache)
    knobs = {
        "rope": kind.rope,
        "window": kind.window,
        "chunk": kind.chunk,
        "context": context,
        "cache": cache,
    }
    parts = {"config": config, "kernels": kernels, "shard": shard}
    with scope("attention"):
        h_BTD, cache = attend(h_BTD, params["attention"], **knobs, **parts)
    h_BTD = named(maybe_norm(shard(h_BTD, RESIDUAL), "attention_post_norm", "post"), ATTENTION_OUT)
    x_BTD = shard(x_BTD + dropout(h_BTD, config.dropout, keys[0]), RESIDUAL)
    h_BTD, cache = mixed(shard(maybe_norm(x_BTD, "mlp_norm", "pre"), _INSIDE), "mlp", cache)
    aux: Aux = {}
    if kind.feed_forward == "moe":
        parts |= {"segments_BT": context.segments, "cached": cache is not None}
        with scope("moe"):
            h_BTD, aux = moe(h_BTD, params["moe"] | {"router": router}, **parts)
    else:
        with scope("mlp"):
            h_BTD = mlp(h_BTD, params["mlp"], **parts)
    h_BTD = named(maybe_norm(shard(h_BTD, RESIDUAL), "mlp_post_norm", "post"), MLP_OUT)
    return shard(x_BTD + dropout(h_BTD, config.dropout, keys[1]), RESIDUAL), cache, aux


def _unstack(tree: Tree) -> list[Tree]:
    """A stack of layers as a list of layers, through one split a leaf: its gradient is one concatenation.

    What is a list already stays as it is.
    """
    if isinstance(tree, list):
        return tree
    leaves, structure = jax.tree.flatten(tree)
    n = leaves[0].shape[0]
    parts = [[p[0] for p in jax.lax.split(leaf, (1,) * n, 0)] for leaf in leaves]
    return [structure.unflatten([part[i] for part in parts]) for i in range(n)]


def _head(network: Network, params: Tree) -> Head:
    weight = params["embedding"]["tokens"] if network.config.tie_embeddings else params["head"]
    return Head(weight.astype(network.dtype), network.config.logits_softcap, None)
