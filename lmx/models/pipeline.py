"""Layers in stages: micro-batches go from stage to stage, each stage computing another one at the same time.

The usual form in JAX (GSPMD, arXiv:2105.04663, section 3.3): a loop over ticks, a buffer with what each stage works
on, laid out along the mesh axis of the stages, one function mapped over it, and a turn of the buffer after each tick.
With `repeats` the layers are cut into repeats x stages blocks that the stages hold in turn, and each micro-batch goes
around that often; rounds of as many micro-batches as there are stages come one after another (arXiv:2104.04473), so
that what leaves the last stage is at once what the first one goes on with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from lmx.sharding import Shard, split_axes
from lmx.types import Tree

FREE = PartitionSpec.UNCONSTRAINED
Stage = Callable[[Tree, jax.Array, Tree, Any], tuple[jax.Array, Tree]]


class Schedule(NamedTuple):
    """What each stage does when. A block is a run of layers; stage s holds the blocks s, stages + s, ..."""

    stages: int
    repeats: int
    micro_batches: int

    @property
    def blocks(self) -> int:
        """Blocks of layers."""
        return self.stages * self.repeats

    @property
    def ticks(self) -> int:
        """Blocks that a stage computes, and ticks that it waits."""
        return self.micro_batches * self.repeats + self.stages - 1

    @property
    def bubble(self) -> float:
        """Share of the ticks that a stage waits."""
        return (self.stages - 1) / self.ticks

    def at(self, tick: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Each stage's repeat and micro-batch (int32 [stages]) at a tick, and whether it has any (bool)."""
        done = tick - jnp.arange(self.stages)
        busy = (done >= 0) & (done < self.micro_batches * self.repeats)
        done = jnp.clip(done, 0, self.micro_batches * self.repeats - 1)
        within = done % self.blocks
        return within // self.stages, done // self.blocks * self.stages + done % self.stages, busy

    def tick(self, block: int, micro: int) -> int:
        """The tick at which a block of layers computes a micro-batch."""
        repeat, stage = divmod(block, self.stages)
        turn, place = divmod(micro, self.stages)
        return turn * self.blocks + repeat * self.stages + place + stage


def schedule(shard: Shard) -> Schedule | None:
    """The pipeline of a mesh, None where it has none."""
    if shard.mesh is None or shard.pipeline is None:
        return None
    return Schedule(shard.mesh.shape[shard.stage_axis], shard.pipeline.repeats, shard.pipeline.micro_batches)


def check(plan: Schedule, repeats: int, layers: int) -> None:
    """ValueError where `repeats` periods of layers (`layers` of them) cannot be cut into equal blocks."""
    if repeats % plan.blocks:
        raise ValueError(
            f"mesh.pipeline: {repeats} equal layers in a row (of model.n_layers={layers}) cannot be cut into "
            f"{plan.stages} stages x {plan.repeats} repeats; make model.n_layers so that they are a multiple of "
            f"{plan.blocks}, or set mesh.pipeline.repeats or the stages to divisors"
        )


def describe(plan: Schedule) -> str:
    """A line on the schedule and its bubble."""
    return (
        f"pipeline: {plan.stages} stages x {plan.repeats} repeats, {plan.micro_batches} micro-batches, "
        f"bubble {plan.bubble:.1%} of the time"
    )


def run(
    stage: Stage, stacks: Tree, x_BTD: jax.Array, rest: Tree, key: Any, *, shard: Shard
) -> tuple[jax.Array, Tree]:
    """All blocks one after another: x [B, T, D], and what each layer counted, summed over micro-batches, [layers, ..].

    `stage(stack, x, rest, key)` computes a block of layers from its part of `stacks` for one micro-batch: its own x
    and counts. Leaves of `rest` with a row for each sequence are cut as `x` is; others are the same for all. ValueError
    where the batch cannot be cut.
    """
    plan = schedule(shard)
    assert plan is not None
    cut = _Cut.of(x_BTD.shape[0], plan, shard)
    over = partial(jax.vmap, spmd_axis_name=shard.stage_axis)
    laid = over(lambda x: shard.inside_stages()(x, ("batch", "residual_length", "act_embed")))
    chunks = jax.tree.map(lambda w: _staged(w, plan, shard), stacks)
    leaves, structure = jax.tree.flatten(rest)
    own = [cut.flat(x) if x.shape[0] == x_BTD.shape[0] else None for x in leaves]

    def given(micro: jax.Array) -> Tree:
        return structure.unflatten([x if o is None else o[micro] for x, o in zip(leaves, own, strict=True)])

    def block(repeat: jax.Array, micro: jax.Array, place: jax.Array, chunk: Tree, x: jax.Array) -> tuple:
        mine = jax.tree.map(lambda w: w[0] if plan.repeats == 1 else w[repeat], chunk)
        seed = None if key is None else jax.random.fold_in(jax.random.fold_in(key, micro), place)
        return stage(mine, x, given(micro), seed)

    def tick(carry: tuple, t: jax.Array) -> tuple[tuple, tuple]:
        x, waiting = carry
        repeat, micro, busy = plan.at(t)
        place = repeat * plan.stages + jnp.arange(plan.stages)
        y, counts = over(block, in_axes=(0, 0, 0, 1, 0))(repeat, micro, place, chunks, x)
        mask = lambda c: jnp.where(busy.reshape(-1, *[1] * (c.ndim - 1)), c, 0)
        return _turn(plan, laid, t + 1, laid(y), waiting), (jax.tree.map(mask, counts), repeat)

    waiting = cut.split(x_BTD)
    start = _turn(plan, laid, jnp.zeros((), jnp.int32), laid(jnp.zeros_like(waiting[:, 0])), waiting)
    (_, waiting), (counts, repeat) = jax.lax.scan(tick, start, jnp.arange(plan.ticks))
    # Each round's results stand where the next round's inputs stood.
    y_BTD = cut.join(jnp.roll(waiting, -1, axis=1))
    return y_BTD, jax.tree.map(partial(_by_layer, plan, repeat), counts)


def whole(by_tick: Sequence[jax.Array], *, shard: Shard) -> jax.Array:
    """[blocks, B, ...] of what the stages made, at each tick [stages, B / micro-batches, ...]: the rows of a batch."""
    plan = schedule(shard)
    assert plan is not None
    cut = _Cut.of(by_tick[0].shape[1] * plan.micro_batches, plan, shard)
    found = []
    for block in range(plan.blocks):
        ticks = [plan.tick(block, micro) for micro in range(plan.micro_batches)]
        x = jnp.stack([by_tick[tick][block % plan.stages] for tick in ticks])
        found.append(cut.join(x.reshape(cut.rounds, cut.stages, *x.shape[1:]).swapaxes(0, 1)))
    return jnp.stack(found)


def _turn(
    plan: Schedule, laid: Callable, tick: jax.Array, y: jax.Array, waiting: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What the stages work on at `tick`, given what they made before it, and what waits after it.

    y, x        [stages, B / micro-batches, T, D]
    waiting     [stages, rounds, ...]: the inputs of each round. As a round begins, its inputs move to the first stage
                one by one, and the results of the round before fill their places from the last stage on
    """
    slot = tick // plan.blocks % (plan.micro_batches // plan.stages)
    begins = tick % plan.blocks < plan.stages
    inputs = jax.lax.dynamic_index_in_dim(waiting, slot, 1, keepdims=False)
    first = (jnp.arange(plan.stages) == 0).reshape(-1, *[1] * (y.ndim - 1))
    last = jnp.flip(first)
    x = laid(jnp.where(first & begins, inputs, jnp.roll(y, 1, axis=0)))
    moved = laid(jnp.where(last, y, jnp.roll(inputs, -1, axis=0)))
    kept = jnp.where(begins, moved, inputs)
    return x, jax.lax.dynamic_update_index_in_dim(waiting, kept, slot, 1)


def _staged(w: jax.Array, plan: Schedule, shard: Shard) -> jax.Array:
    """[layers, ...] as [repeats, stages, layers of a block, ...], laid along the stages, otherwise as it was."""
    w = w.reshape(plan.repeats, plan.stages, w.shape[0] // plan.blocks, *w.shape[1:])
    assert shard.mesh is not None
    free = [FREE] * (w.ndim - 3)
    return jax.lax.with_sharding_constraint(
        w, NamedSharding(shard.mesh, PartitionSpec(None, shard.stage_axis, None, *free))
    )


def _by_layer(plan: Schedule, repeat: jax.Array, counts: jax.Array) -> jax.Array:
    """[ticks, stages, layers of a block, ...] summed over micro-batches: [layers, ...]; `repeat` [ticks, stages]."""
    its = repeat[:, :, None] == jnp.arange(plan.repeats)
    sums = jnp.einsum("tsv,ts...->vs...", its.astype(counts.dtype), counts)
    return sums.reshape(-1, *counts.shape[3:])


class _Cut(NamedTuple):
    """How a batch [B, ...] is cut: [outer, stages, inner, rounds, rows, ...], each device's rows evenly.

    outer, inner    parts along the mesh axes of the batch before and after that of the stages, if that is among them
    """

    outer: int
    stages: int
    inner: int
    rounds: int

    @classmethod
    def of(cls, rows: int, plan: Schedule, shard: Shard) -> _Cut:
        assert shard.mesh is not None
        names = split_axes(shard.rules, "batch")
        at = names.index(shard.stage_axis) if shard.stage_axis in names else len(names)
        ways = lambda part: math.prod(shard.mesh.shape[name] for name in part)  # type: ignore[union-attr]
        cut = cls(ways(names[:at]), plan.stages, ways(names[at + 1 :]), plan.micro_batches // plan.stages)
        if rows % math.prod(cut):
            devices = cut.outer * cut.inner
            raise ValueError(
                f"mesh.pipeline.micro_batches={plan.micro_batches}: a batch of {rows} sequences cannot be cut into "
                f"as many parts, each split over {devices} devices; it must be a multiple of {math.prod(cut)}"
            )
        return cut

    def split(self, x: jax.Array) -> jax.Array:
        """[B, ...] as [stages, rounds, rows of a micro-batch, ...]."""
        parts = x.reshape(*self, -1, *x.shape[1:])
        return parts.transpose(1, 3, 0, 2, 4, *range(5, parts.ndim)).reshape(
            self.stages, self.rounds, -1, *x.shape[1:]
        )

    def join(self, x: jax.Array) -> jax.Array:
        """The inverse of `split`."""
        parts = x.reshape(self.stages, self.rounds, self.outer, self.inner, -1, *x.shape[3:])
        return parts.transpose(2, 0, 3, 1, 4, *range(5, parts.ndim)).reshape(-1, *x.shape[3:])

    def flat(self, x: jax.Array) -> jax.Array:
        """[B, ...] as [micro-batches, rows, ...]."""
        parts = self.split(x).swapaxes(0, 1)
        return parts.reshape(-1, *parts.shape[2:])
