"""The decoder: embedding, a loop over blocks of attention and MLP, last norm.

Layers that repeat with a period (local/global windows, rotary or none) are stacked by their place in the
period, one stack of parameters a place, and the loop goes over periods. Layers left over when the period does
not divide the depth get stacks of their own, after the others.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from lmx.layers import rope as rope_kinds
from lmx.layers.attention import CacheSlot, Context, attention, attention_specs
from lmx.layers.kernels import KernelSet
from lmx.layers.loss import Head
from lmx.layers.mlp import mlp, mlp_specs
from lmx.layers.norm import norm, norm_specs
from lmx.models.config import Decoder, DynamicScaling, LinearScaling, Llama3Scaling, Rope, YarnScaling
from lmx.models.flops import decoder_flops
from lmx.models.model import Model, Output
from lmx.params import Init, Param
from lmx.sharding import Shard
from lmx.types import KVCache, Tree

_POLICIES = {
    "full": None,
    "dots": jax.checkpoint_policies.checkpoint_dots,
    "dots_no_batch": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
    "block_io": jax.checkpoint_policies.save_only_these_names("attention_out", "mlp_out"),
}


class Kind(NamedTuple):
    """What distinguishes a layer from others of the same stack of code: its rope's name and its window."""

    rope: str
    window: int | None


class Group(NamedTuple):
    """`repeats` times the layers `kinds`, one after another; their stacks start at index `first`."""

    kinds: tuple[Kind, ...]
    repeats: int
    first: int


def layer_groups(config: Decoder) -> list[Group]:
    """The depth as repeats of the period, then the rest."""
    ropes, windows = config.position.pattern, config.attention.windows
    kinds = [Kind(ropes[i % len(ropes)], windows[i % len(windows)]) for i in range(config.n_layers)]
    period = config.period
    repeats, rest = divmod(config.n_layers, period)
    groups = [Group(tuple(kinds[:period]), repeats, 0)] if repeats else []
    if rest:
        groups.append(Group(tuple(kinds[-rest:]), 1, period if repeats else 0))
    return groups


def decoder_specs(config: Decoder) -> Tree:
    """The tree of `Param`s: embedding, layers (a list of stacks), final_norm, and head unless tied."""
    init = config.initializer

    def matrix(inputs: int) -> Init:
        return Init(init.distribution, inputs**-0.5 if init.matrix == "fan_in" else float(init.matrix))

    def out(inputs: int) -> Init:
        if init.residual == "zeros":
            return Init("zeros")
        kind, std = matrix(inputs)
        return Init(kind, std / (2 * config.n_layers) ** 0.5 if init.residual == "depth" else std)

    n, width, vocab = config.norm, config.d_model, config.vocab_size

    def norms(stack: int | None) -> dict[str, Param]:
        return norm_specs(width, "norm", scale=n.scale, bias=n.bias, stack=stack)

    def block(stack: int) -> Tree:
        specs: Tree = {
            "attention": attention_specs(config, stack, matrix, out),
            "mlp": mlp_specs(config, stack, matrix, out),
        }
        places = {"pre": ["norm"], "post": ["post_norm"], "both": ["norm", "post_norm"]}[n.placement]
        for part in ("attention", "mlp"):
            specs |= {f"{part}_{place}": norms(stack) for place in places}
        return {name: tree for name, tree in specs.items() if tree}

    specs: Tree = {
        "embedding": {
            "tokens": Param(
                (vocab, width), ("vocab", "embed"), Init(init.distribution, init.embedding), ("vocab",)
            )
        },
        "layers": [block(group.repeats) for group in layer_groups(config) for _ in group.kinds],
        "final_norm": norms(None),
    }
    if config.position.learned:
        specs["embedding"]["positions"] = Param(
            (config.position.learned, width),
            ("position", "embed"),
            Init(init.distribution, init.embedding),
            ("position",),
        )
    if config.embedding_norm:
        specs["embedding"]["norm"] = norms(None)
    if not config.tie_embeddings:
        if init.head == "zeros":
            start = Init("zeros")
        else:
            start = Init(init.distribution, width**-0.5 if init.head == "fan_in" else float(init.head))
        specs["head"] = Param((vocab, width), ("vocab", "embed"), start, ("embed",))
    return specs


def rope_frequencies(rope: Rope, head_dim: int) -> tuple[np.ndarray, float]:
    """Radians a position of each pair, float64, and the factor of cos and sin, with the scaling applied."""
    inv = rope_kinds.frequencies(head_dim, theta=rope.theta, fraction=rope.fraction)
    match rope.scaling:
        case None:
            return inv, 1.0
        case LinearScaling() as s:
            return rope_kinds.linear(inv, factor=s.factor), 1.0
        case DynamicScaling() as s:
            return rope_kinds.dynamic(inv, theta=rope.theta, factor=s.factor), 1.0
        case Llama3Scaling() as s:
            low, high = s.low_frequency_factor, s.high_frequency_factor
            scaled = rope_kinds.llama3(
                inv, factor=s.factor, low=low, high=high, original_length=s.original_length
            )
            return scaled, 1.0
        case YarnScaling() as s:
            scaled = rope_kinds.yarn(
                inv,
                theta=rope.theta,
                factor=s.factor,
                beta_fast=s.beta_fast,
                beta_slow=s.beta_slow,
                original_length=s.original_length,
                truncate=s.truncate,
            )
            return scaled, s.attention_factor or 0.1 * float(np.log(s.factor)) + 1.0
    raise ValueError(f"model.position.ropes: no such scaling: {type(rope.scaling).__name__}")


def _dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def _unstack(tree: Tree) -> list[Tree]:
    """A stack of layers as a list of layers, through one split a leaf: its gradient is one concatenation."""
    leaves, structure = jax.tree.flatten(tree)
    n = leaves[0].shape[0]
    parts = [[p[0] for p in jax.lax.split(leaf, (1,) * n, 0)] for leaf in leaves]
    return [structure.unflatten([part[i] for part in parts]) for i in range(n)]


def build(config: Decoder, *, compute_dtype: jnp.dtype, kernels: KernelSet, shard: Shard) -> Model:
    """The decoder that `config` describes, computing in `compute_dtype` from parameters of any dtype."""
    groups = layer_groups(config)
    frequencies = {
        name: rope_frequencies(rope, config.head_dim) for name, rope in config.position.ropes.items()
    }
    n = config.norm
    norm_knobs = {"kind": n.kind, "epsilon": n.epsilon, "scale": n.scale, "scale_in": n.scale_in}
    residual_axes = ("batch", "length", "act_embed")

    def maybe_norm(x: jax.Array, params: Tree, name: str, place: str) -> jax.Array:
        return norm(x, params.get(name, {}), **norm_knobs) if n.placement in (place, "both") else x

    def block(
        x_BTD: jax.Array,
        params: Tree,
        kind: Kind,
        context: Context,
        cache: CacheSlot | None,
        key: jax.Array | None,
    ) -> tuple[jax.Array, CacheSlot | None]:
        params = jax.tree.map(lambda w: w.astype(compute_dtype), params)
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        h_BTD = maybe_norm(x_BTD, params, "attention_norm", "pre")
        h_BTD, cache = attention(
            h_BTD,
            params["attention"],
            config=config,
            rope=kind.rope,
            window=kind.window,
            context=context,
            cache=cache,
            kernels=kernels,
            shard=shard,
        )
        h_BTD = checkpoint_name(maybe_norm(h_BTD, params, "attention_post_norm", "post"), "attention_out")
        x_BTD = shard(x_BTD + _dropout(h_BTD, config.dropout, keys[0]), residual_axes)
        h_BTD = maybe_norm(x_BTD, params, "mlp_norm", "pre")
        h_BTD = mlp(h_BTD, params["mlp"], config=config, kernels=kernels, shard=shard)
        h_BTD = checkpoint_name(maybe_norm(h_BTD, params, "mlp_post_norm", "post"), "mlp_out")
        x_BTD = shard(x_BTD + _dropout(h_BTD, config.dropout, keys[1]), residual_axes)
        return x_BTD, cache

    def period(
        x_BTD: jax.Array,
        stacks: list[Tree],
        group: Group,
        context: Context,
        cache: list[CacheSlot] | None,
        key: jax.Array | None,
    ) -> tuple[jax.Array, list[CacheSlot] | None]:
        slots = []
        for i, (kind, params) in enumerate(zip(group.kinds, stacks, strict=True)):
            layer_key = None if key is None else jax.random.fold_in(key, i)
            x_BTD, slot = block(x_BTD, params, kind, context, cache[i] if cache else None, layer_key)
            slots.append(slot)
        return x_BTD, slots if cache else None

    def run_group(
        x_BTD: jax.Array,
        stacks: list[Tree],
        group: Group,
        context: Context,
        cache: list[CacheSlot] | None,
        key: jax.Array | None,
    ) -> tuple[jax.Array, list[CacheSlot] | None]:
        """All layers of a group. The cache goes along in the carry, so that it is updated in place."""

        def body(x_BTD: jax.Array, params: list[Tree], slots: Any, i: Any) -> tuple[jax.Array, Any]:
            slots = [s._replace(layer=i) for s in slots] if slots else None
            layer_key = None if key is None else jax.random.fold_in(key, i)
            return period(x_BTD, params, group, context, slots, layer_key)

        if config.remat != "none" and cache is None:
            body = jax.checkpoint(body, policy=_POLICIES[config.remat], static_argnums=())
        if config.layer_loop == "unroll" or group.repeats == 1:
            layers = [_unstack(stack) for stack in stacks]
            for i in range(group.repeats):
                x_BTD, cache = body(x_BTD, [stack[i] for stack in layers], cache, i)
            return x_BTD, cache

        def scanned(carry: tuple, inputs: tuple) -> tuple[tuple, None]:
            x_BTD, slots = body(carry[0], inputs[0], carry[1], inputs[1])
            return (x_BTD, [s._replace(layer=0) for s in slots] if slots else None), None

        (x_BTD, cache), _ = jax.lax.scan(scanned, (x_BTD, cache), (stacks, jnp.arange(group.repeats)))
        return x_BTD, cache

    def forward(
        params: Tree,
        tokens_BT: jax.Array,
        positions_BT: jax.Array | None = None,
        *,
        segments_BT: jax.Array | None = None,
        cache: KVCache | None = None,
        dropout_key: jax.Array | None = None,
    ) -> Output:
        t = tokens_BT.shape[1]
        if cache is not None and positions_BT is None:
            positions_BT = cache.lengths[:, None] + jnp.arange(t)[None]
        places_BT = jnp.arange(t)[None] if positions_BT is None else positions_BT
        embedding = params["embedding"]
        x_BTD = embedding["tokens"][tokens_BT].astype(compute_dtype)
        if config.embedding_scale == "sqrt_d_model":
            x_BTD = x_BTD * jnp.asarray(config.d_model**0.5, compute_dtype)
        if config.position.learned:
            table = embedding["positions"].astype(compute_dtype)
            x_BTD = x_BTD + (table[:t][None] if positions_BT is None else table[positions_BT])
        if config.embedding_norm:
            x_BTD = norm(x_BTD, embedding.get("norm", {}), **norm_knobs)
        keys = (None, None) if dropout_key is None else tuple(jax.random.split(dropout_key))
        x_BTD = shard(_dropout(x_BTD, config.dropout, keys[0]), residual_axes)

        used = {kind.rope for group in groups for kind in group.kinds} - {"none"}
        context = Context(
            positions_BT if cache is not None else None,
            segments_BT,
            {name: rope_kinds.tables(places_BT, *frequencies[name]) for name in sorted(used)},
        )
        all_keys, all_values = [], []
        for g, group in enumerate(groups):
            stacks = params["layers"][group.first : group.first + len(group.kinds)]
            slots = None
            if cache is not None:
                places = range(group.first, group.first + len(group.kinds))
                slots = [CacheSlot(cache.keys[i], cache.values[i], 0) for i in places]
            group_key = None if keys[1] is None else jax.random.fold_in(keys[1], g)
            x_BTD, slots = run_group(x_BTD, stacks, group, context, slots, group_key)
            for slot in slots or []:
                all_keys.append(slot.keys)
                all_values.append(slot.values)
        hidden_BTD = norm(x_BTD, params["final_norm"], **norm_knobs)
        if cache is not None:
            cache = KVCache(tuple(all_keys), tuple(all_values), cache.lengths + t)
        return Output(hidden_BTD, cache, {})

    def head(params: Tree) -> Head:
        weight = params["embedding"]["tokens"] if config.tie_embeddings else params["head"]
        return Head(weight.astype(compute_dtype), config.logits_softcap, None)

    def init_cache(batch: int, length: int, dtype: jnp.dtype = compute_dtype) -> KVCache:
        shapes = [
            (group.repeats, batch, length, config.n_kv_heads, config.head_dim)
            for group in groups
            for _ in group.kinds
        ]
        zeros = lambda: tuple(jnp.zeros(shape, dtype) for shape in shapes)
        return KVCache(zeros(), zeros(), jnp.zeros((batch,), jnp.int32))

    return Model(
        specs=decoder_specs(config),
        forward=forward,
        head=head,
        init_cache=init_cache,
        flops=lambda length: decoder_flops(config, length),
        config=config,
    )
