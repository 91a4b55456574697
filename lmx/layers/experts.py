"""The experts' part of a mixture: each token through the MLPs that were chosen for it, on one device or many.

On a mesh each device computes its own tokens (`jax.shard_map`). Where experts lie on devices that tokens are split
over as well, tokens are exchanged between them (see `lmx.layers.exchange`); where they lie along another axis, each
device computes what its experts add, and the parts are summed. Weights that are split otherwise are gathered, except
along the hidden width where tokens are not split: there the parts are summed, too.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from lmx.config.mesh import Rules
from lmx.layers import exchange
from lmx.layers.mlp import hidden, weight_axes
from lmx.layers.names import scope
from lmx.sharding import Shard, split_axes
from lmx.types import Tree


class Chosen(NamedTuple):
    """Tokens and what they chose.

    x           [B, T, D]
    experts     int32 [B, T, J]; where a choice goes nowhere, the number of experts
    weights     [B, T, J], in the dtype of `x`
    """

    x: jax.Array
    experts: jax.Array
    weights: jax.Array


class Work(NamedTuple):
    """What a device computes with.

    held        experts whose weights it has
    some        whether pairs may go nowhere
    bias        whether it adds the biases of the outputs: bool [] where several devices' outputs are summed
    """

    config: Any
    kernels: Any
    held: int
    some: bool
    bias: bool | jax.Array = True


class Layout(NamedTuple):
    """How tokens and experts lie on the mesh, by mesh axes.

    batch, length   what those are split over
    exchanged       axes of the experts along which tokens are exchanged
    summed          axes of the experts along which outputs are summed
    hidden          axes of the hidden width along which outputs are summed
    """

    batch: tuple[str, ...]
    length: tuple[str, ...]
    exchanged: tuple[str, ...]
    summed: tuple[str, ...]
    hidden: tuple[str, ...]


def through_experts(
    chosen: Chosen, params: Tree, *, config: Any, kernels: Any, shard: Shard, room: int | None, bounded: bool
) -> tuple[jax.Array, jax.Array | None]:
    """[B, T, D] in the dtype of `x`: the sum of the chosen experts' outputs, each times its weight.

    And int32 [B, T], how many of a token's choices found no room on the way to their experts' devices; None where all
    that can come has room. `room`: the most pairs that an expert takes of one sequence; None: all that come. `bounded`:
    whether `kernels.exchange_room` holds. What does not divide over the mesh (a batch of one prompt) is computed by
    every device.
    """
    mesh, rules, n_experts = shard.mesh, shard.rules, config.moe.n_experts
    if mesh is None:
        return _own(chosen, params, Work(config, kernels, n_experts, room is not None)), None
    layout = layout_of(chosen.x.shape, mesh, rules)
    rows = PartitionSpec(layout.batch or None, layout.length or None, None)
    specs = {n: PartitionSpec(*(split_axes(rules, a) or None for a in _axes(n))) for n in params}
    exchanging = math.prod(mesh.shape[name] for name in layout.exchanged)
    held = n_experts // (exchanging * math.prod(mesh.shape[name] for name in layout.summed))
    factor = kernels.exchange_room if bounded and layout.exchanged else None

    def local(chosen: Chosen, params: Tree) -> Any:
        params = {name: _gathered(w, name, rules, layout) for name, w in params.items()}
        bias = jax.lax.axis_index(layout.hidden) == 0 if layout.hidden else True
        work = Work(config, kernels, held, room is not None or held < n_experts, bias)
        if layout.exchanged:
            most = _most(chosen, work, room)
            if factor is not None:
                chosen, over_BT, most = _within(chosen, work, exchanging, factor, most)
                return _summed(
                    _exchanged(chosen, params, work, layout.exchanged, exchanging, most), layout
                ), over_BT
            return _summed(_exchanged(chosen, params, work, layout.exchanged, exchanging, most), layout)
        if layout.summed:
            own = chosen.experts - jax.lax.axis_index(layout.summed) * held
            chosen = chosen._replace(experts=jnp.where((own >= 0) & (own < held), own, held))
        return _summed(_own(chosen, params, work), layout)

    # Unchecked: the products' kernels do not say which axes their results vary over.
    made = rows if factor is None else (rows, PartitionSpec(*rows[:2]))
    mapped = jax.shard_map(local, mesh=mesh, in_specs=(rows, specs), out_specs=made, check_vma=False)
    return (mapped(chosen, params), None) if factor is None else mapped(chosen, params)


def _most(chosen: Chosen, work: Work, room: int | None) -> int:
    """Pairs that another device may get of this one: a token's choices are different experts."""
    b, t, j = chosen.experts.shape
    most = b * t * min(j, work.held)
    return most if room is None else min(most, work.held * b * min(room, t))


def _within(
    chosen: Chosen, work: Work, devices: int, factor: float, most: int
) -> tuple[Chosen, jax.Array, int]:
    """`chosen` without the pairs for which a device has no room, how many those are of each token, and the room.

    The room of a device for the pairs of another is `factor` times an even share of them, and `most` at most; earlier
    tokens come first.
    """
    room = min(most, -int(-factor * chosen.experts.size // devices))
    kept_P = exchange.first_come(chosen.experts.reshape(-1), work.held, devices=devices, room=room)
    kept_BTJ = kept_P.reshape(chosen.experts.shape)
    experts_BTJ = jnp.where(kept_BTJ, chosen.experts, work.config.moe.n_experts)
    return chosen._replace(experts=experts_BTJ), (~kept_BTJ).sum(-1, dtype=jnp.int32), room


def _axes(name: str) -> tuple[str, ...]:
    return ("experts", *weight_axes(name, expert=True))


def layout_of(shape: tuple[int, ...], mesh: Mesh, rules: Rules) -> Layout:
    """How [B, T, ...] and the experts lie; ValueError where experts lie half along axes of the tokens."""

    def fitting(axis: str, size: int) -> tuple[str, ...]:
        names = split_axes(rules, axis)
        return names if size % math.prod(mesh.shape[name] for name in names) == 0 else ()

    batch, length = fitting("batch", shape[0]), fitting("length", shape[1])
    experts = tuple(name for name in split_axes(rules, "experts") if mesh.shape[name] > 1)
    shared = [name for name in experts if name in batch + length]
    if shared and len(shared) < len(experts):
        rest = ", ".join(name for name in experts if name not in shared)
        raise ValueError(
            f"mesh.rules.experts: tokens are split over {', '.join(shared)} but not over {rest}; "
            f"split the batch over all of them (mesh.rules.batch), or over none"
        )
    within = split_axes(rules, "expert_ffn")
    apart = () if set(within) & set(batch + length) else within
    return Layout(batch, length, experts if shared else (), () if shared else experts, apart)


def _gathered(w: jax.Array, name: str, rules: Rules, layout: Layout) -> jax.Array:
    """A device's weights of its experts, whole but for the hidden width where outputs are summed along that."""
    for i, axis in enumerate(_axes(name)):
        split = split_axes(rules, axis)
        kept = axis == "experts" or (axis == "expert_ffn" and layout.hidden)
        if split and not kept:
            w = jax.lax.all_gather(w, split, axis=i, tiled=True)
    return w


def _summed(y_BTD: jax.Array, layout: Layout) -> jax.Array:
    axes = layout.summed + layout.hidden
    return jax.lax.psum(y_BTD, axes) if axes else y_BTD


def _pairs(
    x_MD: jax.Array, experts_MJ: jax.Array, params: Tree, work: Work, weights: Any = None
) -> jax.Array:
    """[M, J, D]: what each choice's expert makes of the token, times its weight if given; 0 where it goes nowhere."""
    config, held = work.config, work.held
    grouping = work.kernels.group(experts_MJ, held)
    x_RD = x_MD[grouping.tokens]
    if weights is not None:
        x_RD = x_RD * weights.reshape(-1)[grouping.choices][:, None]
    if work.some:  # what rows without a pair hold must reach neither result nor gradient
        x_RD = jnp.where((grouping.experts < held)[:, None], x_RD, 0)

    def product(x: jax.Array, name: str) -> jax.Array:
        y = grouping.product(x, params[name])
        if not config.mlp.bias:
            return y
        bias = params[f"{name}_bias"].at[grouping.experts].get(mode="fill", fill_value=0)
        return y + (bias if name != "down" or work.bias is True else jnp.where(work.bias, bias, 0))

    h_RF = hidden(lambda name: product(x_RD, name), config=config, kernels=work.kernels)
    with scope("down"):
        y_RD = product(h_RF, "down")
    y_MJD = y_RD.at[grouping.rows].get(mode="clip")
    return jnp.where((experts_MJ < held)[..., None], y_MJD, 0) if work.some else y_MJD


def _own(chosen: Chosen, params: Tree, work: Work) -> jax.Array:
    """What the experts of this device add to its tokens."""
    b, t, d = chosen.x.shape
    experts_MJ, weights_MJ = (x.reshape(b * t, -1) for x in (chosen.experts, chosen.weights))
    before = work.config.moe.router.weighs == "input"
    y_MJD = _pairs(
        chosen.x.reshape(b * t, d), experts_MJ, params, work, weights=weights_MJ if before else None
    )
    y_MJD = y_MJD if before else y_MJD * weights_MJ[..., None]
    return y_MJD.sum(1).reshape(b, t, d)


def _exchanged(
    chosen: Chosen, params: Tree, work: Work, axis: tuple[str, ...], devices: int, most: int
) -> jax.Array:
    """What all experts along `axis` add to the tokens of this device: they go there, `most` a device, and come back."""
    config, ragged = work.config, work.kernels.exchange == "ragged"
    (b, t, d), j = chosen.x.shape, chosen.experts.shape[-1]
    experts_P, weights_P = chosen.experts.reshape(-1), chosen.weights.reshape(-1, 1)
    x_MD = chosen.x.reshape(b * t, d)
    before = config.moe.router.weighs == "input"
    if before:
        x_MD = jnp.repeat(x_MD, j, axis=0) * weights_P
    n_experts = config.moe.n_experts
    route = exchange.plan(experts_P, n_experts, axis=axis, devices=devices, room=most)
    x_NSD = exchange.send(route, x_MD, 1 if before else j, axis=axis, ragged=ragged)
    y_RJD = _pairs(x_NSD.reshape(-1, d), route.experts.reshape(-1, 1), params, work._replace(some=True))
    y_PD = exchange.fetch(route, y_RJD.reshape(devices, most, d), axis=axis, ragged=ragged)
    y_PD = y_PD if before else y_PD * weights_P
    return y_PD.reshape(b, t, j, d).sum(2)
