"""What a configuration would build on devices that are not here: shapes and shardings, in about a second.

The same specs, optimizer and layout rules as `lmx.run.build` uses, over an `AbstractMesh`: no device is asked for,
nothing is compiled, nothing is allocated.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from lmx.config.errors import ConfigError, requests
from lmx.layers.choice import PLATFORMS
from lmx.layers.kernels import KernelSet
from lmx.models.model import Model
from lmx.review.local import Kept, fused_attention, kept_for_backward, local_model, tiled_bytes
from lmx.review.target import Target
from lmx.run.build import abstract_states
from lmx.run.config import TrainConfig
from lmx.run.fit import fit_problems
from lmx.run.length import steps_or_none
from lmx.sharding import Shard, axis_sizes, crossing, ways
from lmx.types import TrainState


class Outline(NamedTuple):
    """A run before anything is built.

    sizes     devices along each mesh axis; between: over how many slices each goes
    model     on one device, whole: specs and FLOPs are those of the run
    steps     None where only data or clock will tell
    state     shapes with their shardings
    local     configuration of the model as one device sees it
    kept      what a device keeps from the forward pass of a micro-batch
    factor    step -> factor of the peak learning rate; None where the length is not known
    """

    config: TrainConfig
    target: Target
    sizes: dict[str, int]
    between: dict[str, int]
    model: Model
    steps: int | None
    state: TrainState
    local: Any
    kept: Kept
    factor: Any


def outline(config: TrainConfig, target: Target) -> Outline:
    """RequestError or ConfigError where mesh, batch, schedule or model do not fit one another or the devices."""
    with requests():
        sizes = axis_sizes(config.mesh, target.devices, target.slices)
        mesh = AbstractMesh(tuple(sizes.values()), tuple(sizes))
        kernels = _kernels(config, target)
        dtype = jnp.dtype(config.trainer.compute_dtype)
        model = config.model.build(compute_dtype=dtype, kernels=kernels, shard=Shard(None, {}))
        problems = fit_problems(config, model.specs, sizes)
        if problems:
            raise ConfigError(problems)
        steps = steps_or_none(config.trainer)
        tokens = config.trainer.batch_sequences() * config.trainer.sequence_length
        factor = config.schedule.build(total_steps=steps or 10**6, tokens_per_step=tokens)
        tx = config.optimizer.build(model.specs, factor)
        state = abstract_states(config, model.specs, tx, mesh)[0]
    between = dict(zip(sizes, crossing(sizes, target.slices), strict=True))
    local = local_model(config.model, config.mesh.rules, sizes)
    kept = _kept(config, local, target, sizes, kernels)
    return Outline(
        config, target, sizes, between, model, steps, state, local, kept, factor if steps else None
    )


def _kernels(config: TrainConfig, target: Target) -> KernelSet:
    """Kernels that can be traced anywhere, keeping what the target's own would keep."""
    portable = config.kernels.model_copy(update={"attention": "auto", "experts": "auto", "exchange": "auto"})
    platform = target.platform
    many = max(target.devices, 2)
    kernels = portable.build("cpu", n_devices=target.devices if platform == "cpu" else many)
    needs = config.model.attention_needs(config.trainer.compute_dtype)
    if needs is not None:
        own = config.kernels.build(platform, n_devices=target.devices)
        if own.attention_name(needs) in PLATFORMS:
            kernels = kernels._replace(attention=fused_attention)
    return kernels._replace(precision=config.precision)


def _kept(config: TrainConfig, local: Any, target: Target, sizes: dict[str, int], kernels: KernelSet) -> Kept:
    rules, trainer = config.mesh.rules, config.trainer
    dtype = jnp.dtype(trainer.compute_dtype)
    model = local.build(compute_dtype=dtype, kernels=kernels, shard=Shard(None, {}))
    return kept_for_backward(
        model,
        kernels,
        length=trainer.sequence_length,
        segmented=config.data.segmented(),
        rows=trainer.batch_sequences() / trainer.accumulation / ways(sizes, rules, "batch"),
        param_dtype=trainer.param_dtype,
        shares={
            "residual": ways(sizes, rules, "residual_length"),
            "length": ways(sizes, rules, "length"),
        },
        tpu=target.platform == "tpu",
    )


def device_bytes(tree: Any, *, tpu: bool) -> int:
    """Bytes of one device of a tree of shapes with shardings."""
    return sum(
        tiled_bytes(leaf.sharding.shard_shape(leaf.shape), leaf.dtype.itemsize, tpu=tpu)
        for leaf in jax.tree.leaves(tree)
    )


def all_bytes(tree: Any) -> int:
    """Bytes of all of a tree of shapes, once."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
